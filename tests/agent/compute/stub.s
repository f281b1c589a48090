# A guest of 512 bytes for tests that need a real QEMU and no operating system: it counts its boots in the second sector of its
# disk and says the count, or that the disk refuses; then it is ready, ticks about nine times a second on COM1, echoes what is
# typed there, and switches itself off when its power button is pressed or an X is typed.
#
# Build: as --64 -o stub.o stub.s && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o stub.bin stub.o

.set COM1, 0x3f8
.set LINE_STATUS, COM1 + 5
.set PM_STATUS, 0x600               # where SeaBIOS puts q35's ACPI registers
.set PM_ENABLE, 0x602
.set PM_CONTROL, 0x604
.set POWER_BUTTON, 1 << 8
.set SLEEP_OFF, 1 << 13
.set SECTOR, 0x7e00                 # a sector of the disk lies here
.set CLOCK, 0x46c                   # the BIOS counts 18.2 ticks a second here

.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw %ax, %es
    movw $0x7c00, %sp
    movw $0x0201, %ax               # read one sector
    call disk
    incw SECTOR
    movw $0x0301, %ax               # and write it
    call disk
    movw $boot, %si
    movw SECTOR, %di
    call report
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
    call report
    jmp wait
off:
    movw $bye, %si
    call print
    movw $SLEEP_OFF, %ax
    movw $PM_CONTROL, %dx
    outw %ax, %dx
    jmp wait

disk:                               # the BIOS, on the second sector of the disk that was booted from
    movw $0x0002, %cx
    movb $0, %dh
    movw $SECTOR, %bx
    int $0x13
    jc refused
    ret
refused:
    movw $error, %si
    call print
    ret

report:                             # a word and a number in sixteen letters: only its growing matters
    call print
    movw %di, %bx
    movw $4, %cx
digit:
    rolw $4, %bx
    movb %bl, %al
    andb $15, %al
    addb $'A', %al
    call put
    loop digit
    movw $end, %si
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

boot:  .asciz "\r\nboot "
error: .asciz "\r\ndisk error\r\n"
ready: .asciz "\r\nstub ready\r\n"
tick:  .asciz "tick "
end:   .asciz "\r\n"
bye:   .asciz "stub off\r\n"

.org 510
    .word 0xaa55
