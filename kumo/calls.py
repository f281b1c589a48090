"""Which system calls are whose. The filters are made by kumo/seccomp.py, and put on by whoever starts a process or is one.

Two lists refuse, and go around whole services: what no service of a host needs (NOBODYS), and what none needs that has no capability
(POWERS). Two lists allow, and are as short as they can be: those of the programs that parse what guests send and what tenants upload.
"""

from kumo.seccomp import Case, allowing, denying

# Ways into the kernel, its clock, its memory and other processes' memory. Guests' QEMU inherits this from libvirtd.
NOBODYS = frozenset(
    {
        *("acct", "add_key", "adjtimex", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module"),
        *("fanotify_init", "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl"),
        *("kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "modify_ldt", "move_pages", "nfsservctl"),
        *("open_by_handle_at", "perf_event_open", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"),
        *("query_module", "quotactl", "reboot", "remap_file_pages", "request_key", "settimeofday", "stime", "swapoff", "swapon", "sysfs"),
        *("_sysctl", "syslog", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old"),
    }
)
# What only the agent, libvirt and the responder's start need: namespaces, mounts, names of the machine.
POWERS = frozenset(
    {
        *("chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "pivot_root"),
        *("setdomainname", "sethostname", "setns", "umount", "umount2", "unshare"),
    }
)
PROGRAMS = frozenset({"execve", "execveat"})

_MEMORY = frozenset({"brk", "futex", "madvise", "membarrier", "mremap", "munmap", "rseq", "set_robust_list"})
_TIME = frozenset({"clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "time"})
_SELF = frozenset(
    {
        *("exit", "exit_group", "getegid", "geteuid", "getgid", "getgroups", "getpid", "getppid", "getrandom", "getrusage", "gettid"),
        "getuid",
        *("restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield", "sigaltstack", "sysinfo", "uname"),
    }
)
_FILES = frozenset(
    {
        *("access", "close", "dup", "faccessat", "faccessat2", "fcntl", "fstat", "getcwd", "getdents64", "lseek", "lstat", "newfstatat"),
        *("open", "openat", "pread64", "read", "readlink", "readlinkat", "readv", "stat", "statx", "write", "writev"),
    }
)
_WAITING = frozenset({"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "pipe2", "poll", "ppoll"})
_PROT, _PROT_EXEC = 2, 4
_REQUEST, _WHOLE = 1, 0xFFFFFFFF
_TCGETS, _FIONBIO, _FIONCLEX, _FIOCLEX, _SIOCGIFNAME, _SIOCGIFINDEX = 0x5401, 0x5421, 0x5450, 0x5451, 0x8910, 0x8933
_REQUESTS = (_TCGETS, _FIONBIO, _FIONCLEX, _FIOCLEX, _SIOCGIFNAME, _SIOCGIFINDEX)
# Memory that can be run may no longer be made, and of devices only what sockets and terminals are asked, such as a link's name.
_NOTHING_NEW_TO_RUN = (Case("mmap", _PROT, _PROT_EXEC, 0), Case("mprotect", _PROT, _PROT_EXEC, 0))
_SOCKET_CONTROL = tuple(Case("ioctl", _REQUEST, _WHOLE, request) for request in _REQUESTS)

# The guest responder, once it has opened its sockets: it makes no socket, no process, no thread and no connection, and changes no
# file but the marks of guests that are ready.
_ANSWERING = frozenset(
    {
        *("accept", "accept4", "getpeername", "getsockname", "getsockopt", "recvfrom", "recvmsg", "sendmsg", "sendto", "setsockopt"),
        *("rename", "renameat", "renameat2", "shutdown"),
    }
)
# What is run on tenants' files in the jail, qemu-img and an inspector in Python: files and threads, no socket, no signal to others.
_JAILED = frozenset(
    {
        *("arch_prctl", "clone", "clone3", "copy_file_range", "dup2", "dup3", "eventfd2", "execve", "fadvise64", "fallocate", "fdatasync"),
        *("flock", "fstatfs", "fsync", "ftruncate", "ioctl", "mmap", "mprotect", "prctl", "preadv", "preadv2", "prlimit64", "pwrite64"),
        *("pwritev", "pwritev2", "sched_getaffinity", "set_tid_address", "signalfd4", "statfs", "sync_file_range", "tgkill"),
        *("timerfd_create", "timerfd_settime", "umask", "unlink", "unlinkat"),
    }
)


def host_service() -> bytes:
    """The filter around what has powers over the host: the agent, libvirt, the responder while it starts."""
    return denying(NOBODYS)


def plain_service() -> bytes:
    """The filter around what has no power: the controller, etcd, Ceph."""
    return denying(NOBODYS | POWERS, namespaces=False)


def no_programs() -> bytes:
    """The filter of a process that starts no program any more."""
    return denying(PROGRAMS)


def guest_responder() -> bytes:
    """The filter of the process that parses what guests send, once it serves."""
    return allowing(_MEMORY | _TIME | _SELF | _FILES | _WAITING | _ANSWERING, (*_NOTHING_NEW_TO_RUN, *_SOCKET_CONTROL))


def image_program() -> bytes:
    """The filter of what parses files of tenants."""
    return allowing(_MEMORY | _TIME | _SELF | _FILES | _WAITING | _JAILED)
