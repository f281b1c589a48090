# A guest in one boot sector, for tests that need a real QEMU and no operating system: it says "@kt ready stub" on the serial console,
# then "@tick" with a count in hexadecimal about nine times a second, and sends back what it is sent.
# The count lies in memory alone, so it tells whether a guest went on or began anew.
# Build: as --32 -o stub.o stub.s && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e start -o stub.bin stub.o
    .code16
    .globl start
    .set COM1, 0x3f8
    .set CLOCK, 0x46c          # counted up 18.2 times a second by the BIOS
    .set COUNT, 0x7e00
    .set SEEN, 0x7e02

start:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    mov %ax, COUNT
    mov %ax, SEEN
    mov $hello, %si
    call print
    sti

wait:
    hlt
    mov $COM1 + 5, %dx
    inb %dx, %al
    test $1, %al               # is there a byte to read?
    jz look
    mov $COM1, %dx
    inb %dx, %al
    call send
look:
    mov CLOCK, %ax
    shr $1, %ax
    cmp SEEN, %ax
    je wait
    mov %ax, SEEN
    incw COUNT
    mov $tick, %si
    call print
    mov COUNT, %bx
    mov $4, %cx
digit:
    rol $4, %bx
    mov %bl, %al
    and $15, %al
    cmp $10, %al
    jb decimal
    add $'A' - '0' - 10, %al
decimal:
    add $'0', %al
    call send
    loop digit
    mov $end, %si
    call print
    jmp wait

print:
    lodsb
    test %al, %al
    jz done
    call send
    jmp print

send:
    mov %al, %ah
    mov $COM1 + 5, %dx
full:
    inb %dx, %al
    test $0x20, %al            # may a byte be written?
    jz full
    mov %ah, %al
    mov $COM1, %dx
    outb %al, %dx
done:
    ret

hello: .asciz "\r\n@kt ready stub\r\n"
tick:  .asciz "@tick "
end:   .asciz "\r\n"

    .org 510
    .byte 0x55, 0xaa
