# A boot sector that shows whether a virtual processor can be trusted with a guest: from real mode into 64-bit mode with
# paging, through an interrupt and back. It reports each stage by a letter on COM1 and ends QEMU through isa-debug-exit.
#
# Build: as --64 -o probe64.o probe64.s && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o probe64.bin probe64.o

.set COM1, 0x3f8
.set EXIT_PORT, 0xf4
.set PML4, 0x10000
.set PDPT, 0x11000
.set PD, 0x12000
.set IDT, 0x13000

.code16
.globl _start
_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movb $'R', %al                  # real mode runs
    movw $COM1, %dx
    outb %al, %dx

    movw $(PML4 >> 4), %ax          # four pages, all zero
    movw %ax, %es
    xorw %di, %di
    movw $0x1000, %cx
    xorl %eax, %eax
    rep stosl
    movl $(PDPT | 3), %es:0         # the first 2 MiB, mapped to themselves
    movl $(PD | 3), %es:(PDPT - PML4)
    movl $0x83, %es:(PD - PML4)
    movw $breakpoint, %es:(IDT - PML4 + 3 * 16)       # gate 3: code segment 8, present, interrupt gate
    movw $8, %es:(IDT - PML4 + 3 * 16 + 2)
    movw $0x8e00, %es:(IDT - PML4 + 3 * 16 + 4)

    lidtl idt_pointer
    lgdtl gdt_pointer
    movl %cr4, %eax
    orl $(1 << 5), %eax             # PAE
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $(1 << 8), %eax             # long mode enable
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax           # paging and protection in one step
    movl %eax, %cr0
    ljmpl $8, $long_mode

.code64
long_mode:
    movl $16, %eax
    movl %eax, %ss
    movl $0x7c00, %esp
    movw $COM1, %dx
    movb $'L', %al                  # long mode runs
    outb %al, %dx
    xorl %ebx, %ebx
    int3
    cmpl $0x4b554d4f, %ebx          # the handler was there, and came back
    jne stop
    movb $'K', %al
    outb %al, %dx
    movb $'\n', %al
    outb %al, %dx
    xorl %eax, %eax
    movw $EXIT_PORT, %dx
    outl %eax, %dx                  # QEMU exits with 1
stop:
    hlt
    jmp stop

breakpoint:
    movb $'I', %al
    outb %al, %dx
    movl $0x4b554d4f, %ebx
    iretq

.balign 8
gdt:
    .quad 0
    .quad 0x00209a0000000000        # 64-bit code
    .quad 0x0000920000000000        # data
gdt_pointer:
    .word . - gdt - 1
    .long gdt
idt_pointer:
    .word 0xfff
    .long IDT

.org 510
    .word 0xaa55
