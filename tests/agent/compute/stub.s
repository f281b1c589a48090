# A guest of 512 bytes for tests that need a real QEMU and no operating system: it says that it is ready, then ticks about nine
# times a second on COM1, echoes what is typed there, and switches itself off when its power button is pressed or an X is typed.
#
# Build: as --64 -o stub.o stub.s && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o stub.bin stub.o

.set COM1, 0x3f8
.set LINE_STATUS, COM1 + 5
.set PM_STATUS, 0x600               # where SeaBIOS puts q35's ACPI registers
.set PM_ENABLE, 0x602
.set PM_CONTROL, 0x604
.set POWER_BUTTON, 1 << 8
.set SLEEP_OFF, 1 << 13
.set CLOCK, 0x46c                   # the BIOS counts 18.2 ticks a second here

.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $POWER_BUTTON, %ax         # without this QEMU does not tell of the button
    movw $PM_ENABLE, %dx
    outw %ax, %dx
    movw $ready, %si
    call print
    xorw %di, %di                   # the count
    sti
wait:
    hlt
    movw $PM_STATUS, %dx
    inw %dx, %ax
    testw $POWER_BUTTON, %ax
    jnz off
    movw $LINE_STATUS, %dx
    inb %dx, %al
    testb $1, %al
    jz no_key
    movw $COM1, %dx
    inb %dx, %al
    cmpb $'X', %al
    je off
    call put
no_key:
    movw CLOCK, %bx
    shrw $1, %bx
    cmpw %bp, %bx
    je wait
    movw %bx, %bp
    incw %di
    movw $tick, %si
    call print
    movw %di, %bx
    movw $4, %cx
digit:
    rolw $4, %bx
    movb %bl, %al
    andb $15, %al
    addb $'A', %al                  # a number in sixteen letters: only its growing matters
    call put
    loop digit
    movw $end, %si
    call print
    jmp wait
off:
    movw $bye, %si
    call print
    movw $SLEEP_OFF, %ax
    movw $PM_CONTROL, %dx
    outw %ax, %dx
    jmp wait

print:
    lodsb
    testb %al, %al
    jz printed
    call put
    jmp print
printed:
    ret

put:
    pushw %dx
    pushw %ax
    movw $LINE_STATUS, %dx
full:
    inb %dx, %al
    testb $0x20, %al
    jz full
    popw %ax
    movw $COM1, %dx
    outb %al, %dx
    popw %dx
    ret

ready: .asciz "\r\nstub ready\r\n"
tick:  .asciz "tick "
end:   .asciz "\r\n"
bye:   .asciz "stub off\r\n"

.org 510
    .word 0xaa55
