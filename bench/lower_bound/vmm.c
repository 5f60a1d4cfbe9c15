/* The lower bound: the least that boots a stock Linux on KVM, with nothing left out that costs time.
 *
 *     vmm KERNEL INITRAMFS MEBIBYTES COMMAND-LINE
 *
 * KERNEL is an ELF vmlinux, entered at its 64-bit entry point (Documentation/x86/boot.rst, "64-bit
 * Boot Protocol").  One vCPU; guest memory aligned to 2 MiB and huge; interrupt controllers and PIT
 * in the kernel; a 16550 that only writes, to standard output; a byte written to port 0xf4 is the
 * exit status.  No ACPI, no PCI, no input, no threads.
 */
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HUGE = 2 << 20,
    GDT = 0x500, PAGE_TABLES = 0x9000, ZERO_PAGE = 0x7000, COMMAND_LINE = 0x20000, LOW_END = 0x9fc00, HIGH = 0x100000,
    TSS = 0xfffbd000,          /* three pages that Intel's VMX needs, where no memory is */
    COM1 = 0x3f8, COM1_IRQ = 4, EXIT_PORT = 0xf4, KEYBOARD = 0x64, CMOS_DATA = 0x71,
    CPUID_ENTRIES = 256,
    DIED = 70,
};

static uint8_t *memory;
static uint64_t memory_size;
static int vm, vcpu;

static void die(const char *what) {
    fprintf(stderr, "vmm: %s: %s\n", what, strerror(errno));
    exit(DIED);
}

static int call(int fd, unsigned long request, void *argument, const char *what) {
    int result = ioctl(fd, request, argument);
    if (result < 0) die(what);
    return result;
}

/* -- memory and its contents ------------------------------------------------------------------- */

static void make_memory(void) {
    uint8_t *raw = mmap(NULL, memory_size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) die("guest memory");
    memory = (uint8_t *)(((uintptr_t)raw + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    madvise(memory, memory_size, MADV_HUGEPAGE);
    struct kvm_userspace_memory_region slot = {
        .memory_size = memory_size, .userspace_addr = (uintptr_t)memory,
    };
    call(vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
}

static void read_at(int fd, uint64_t offset, uint64_t address, uint64_t size, const char *name) {
    if (address > memory_size || size > memory_size - address) {
        fprintf(stderr, "vmm: %s does not fit into %llu MiB\n", name, (unsigned long long)(memory_size >> 20));
        exit(DIED);
    }
    while (size) {
        ssize_t count = pread(fd, memory + address, size, (off_t)offset);
        if (count <= 0) die(name);
        address += (uint64_t)count, offset += (uint64_t)count, size -= (uint64_t)count;
    }
}

/* Read the segments to their physical addresses; returns the entry point. */
static uint64_t load_kernel(const char *name) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr header;
    if (fd < 0 || pread(fd, &header, sizeof header, 0) != sizeof header) die(name);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_machine != EM_X86_64) {
        fprintf(stderr, "vmm: %s is no vmlinux for x86-64\n", name);
        exit(DIED);
    }
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        off_t at = (off_t)(header.e_phoff + i * sizeof segment);
        if (pread(fd, &segment, sizeof segment, at) != sizeof segment) die(name);
        if (segment.p_type == PT_LOAD) read_at(fd, segment.p_offset, segment.p_paddr, segment.p_filesz, name);
    }
    close(fd);
    return header.e_entry;
}

static void load_initramfs(const char *name, struct boot_params *boot) {
    struct stat about;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0) die(name);
    uint64_t size = (uint64_t)about.st_size;
    uint64_t address = (memory_size - size) & ~(uint64_t)0xfff;
    read_at(fd, 0, address, size, name);
    boot->hdr.ramdisk_image = (uint32_t)address;
    boot->hdr.ramdisk_size = (uint32_t)size;
    close(fd);
}

static void describe_machine(struct boot_params *boot, const char *command_line) {
    strcpy((char *)memory + COMMAND_LINE, command_line);
    boot->hdr.boot_flag = 0xaa55;
    boot->hdr.header = 0x53726448; /* "HdrS" */
    boot->hdr.type_of_loader = 0xff;
    boot->hdr.loadflags = LOADED_HIGH;
    boot->hdr.kernel_alignment = 0x1000000;
    boot->hdr.cmd_line_ptr = COMMAND_LINE;
    boot->hdr.cmdline_size = (uint32_t)strlen(command_line);
    boot->e820_entries = 2;
    boot->e820_table[0] = (struct boot_e820_entry){0, LOW_END, 1};
    boot->e820_table[1] = (struct boot_e820_entry){HIGH, memory_size - HIGH, 1};
}

/* -- the vCPU as the boot protocol wants it ---------------------------------------------------- */

/* The first GiB at itself, in pages of 2 MiB. */
static void make_page_tables(void) {
    uint64_t *root = (uint64_t *)(memory + PAGE_TABLES), *gibibytes = root + 512, *pages = root + 1024;
    root[0] = (PAGE_TABLES + 0x1000) | 3;
    gibibytes[0] = (PAGE_TABLES + 0x2000) | 3;
    for (uint64_t i = 0; i < 512; i++) pages[i] = i << 21 | 0x83;
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, int code) {
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
        .l = code != 0, .db = !code,
    };
}

static void set_registers(uint64_t entry) {
    struct kvm_sregs special;
    call(vcpu, KVM_GET_SREGS, &special, "KVM_GET_SREGS");
    uint64_t *table = (uint64_t *)(memory + GDT);
    table[2] = 0x00af9b000000ffff; /* __BOOT_CS: 64-bit code */
    table[3] = 0x00cf93000000ffff; /* __BOOT_DS */
    special.gdt.base = GDT;
    special.gdt.limit = 4 * 8 - 1;
    special.cs = segment(0x10, 11, 1);
    special.ds = special.es = special.fs = special.gs = special.ss = segment(0x18, 3, 0);
    special.cr3 = PAGE_TABLES;
    special.cr4 |= 1 << 5;                  /* PAE */
    special.cr0 |= 0x80000001;              /* PG, PE */
    special.efer |= 1 << 8 | 1 << 10;       /* LME, LMA */
    call(vcpu, KVM_SET_SREGS, &special, "KVM_SET_SREGS");
    struct kvm_regs general = {.rip = entry, .rsi = ZERO_PAGE, .rflags = 2};
    call(vcpu, KVM_SET_REGS, &general, "KVM_SET_REGS");
}

static void set_cpuid(int kvm) {
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + CPUID_ENTRIES * sizeof table->entries[0]);
    table->nent = CPUID_ENTRIES;
    call(kvm, KVM_GET_SUPPORTED_CPUID, table, "KVM_GET_SUPPORTED_CPUID");
    for (unsigned i = 0; i < table->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &table->entries[i];
        if (entry->function == 1) {
            entry->ebx &= 0x0000ffff; /* APIC id 0, one processor */
            entry->ebx |= 1 << 16;
            entry->ecx |= 1u << 31;   /* there is a hypervisor: the guest looks for kvmclock */
            if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) entry->ecx |= 1 << 24;
        }
        if (entry->function == 0xb || entry->function == 0x1f) entry->edx = 0;
    }
    call(vcpu, KVM_SET_CPUID2, table, "KVM_SET_CPUID2");
    free(table);
}

/* LINT0 takes the PIC's interrupts, as firmware leaves it ("virtual wire"). */
static void wire_pic(void) {
    struct kvm_lapic_state apic;
    call(vcpu, KVM_GET_LAPIC, &apic, "KVM_GET_LAPIC");
    uint32_t external = 7 << 8;
    memcpy(apic.regs + 0x350, &external, sizeof external);
    call(vcpu, KVM_SET_LAPIC, &apic, "KVM_SET_LAPIC");
}

/* -- the 16550, as far as output needs it ------------------------------------------------------ */

static struct {
    uint8_t ier, lcr, mcr, scr, divisor[2], empty_pending;
} uart;

static void pulse_irq(void) {
    struct kvm_irq_level line = {.irq = COM1_IRQ, .level = 1};
    call(vm, KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
    line.level = 0;
    call(vm, KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
}

static void transmitter_is_empty(void) {
    if (!(uart.ier & 2)) return;
    uart.empty_pending = 1;
    pulse_irq();
}

static void uart_write(unsigned offset, uint8_t value) {
    int latch = uart.lcr & 0x80;
    switch (offset) {
        case 0:
            if (latch) { uart.divisor[0] = value; break; }
            if (uart.mcr & 0x10) break; /* loopback: nothing leaves */
            if (write(STDOUT_FILENO, &value, 1) != 1) exit(DIED);
            transmitter_is_empty();
            break;
        case 1:
            if (latch) { uart.divisor[1] = value; break; }
            uart.ier = value & 0x0f;
            transmitter_is_empty();
            break;
        case 3: uart.lcr = value; break;
        case 4: uart.mcr = value & 0x1f; break;
        case 7: uart.scr = value; break;
    }
}

static uint8_t uart_read(unsigned offset) {
    int latch = uart.lcr & 0x80;
    uint8_t reason;
    switch (offset) {
        case 0: return latch ? uart.divisor[0] : 0;
        case 1: return latch ? uart.divisor[1] : uart.ier;
        case 2:
            reason = uart.empty_pending ? 0xc2 : 0xc1;
            uart.empty_pending = 0;
            return reason;
        case 3: return uart.lcr;
        case 4: return uart.mcr;
        case 5: return 0x60;
        case 6: /* in loopback, what MCR drives; else carrier, data set ready, clear to send */
            return uart.mcr & 0x10 ? (uint8_t)((uart.mcr & 2) << 3 | (uart.mcr & 1) << 5 | (uart.mcr & 12) << 4) : 0xb0;
        default: return uart.scr;
    }
}

/* -- exits ------------------------------------------------------------------------------------- */

static void port(struct kvm_run *run) {
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned number = run->io.port;
    int out = run->io.direction == KVM_EXIT_IO_OUT, is_uart = number >= COM1 && number < COM1 + 8;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (out && is_uart) uart_write(number - COM1, *data);
        else if (out && number == EXIT_PORT) exit(*data);
        else if (out && number == KEYBOARD && *data == 0xfe) exit(0); /* the guest asks for a reset */
        else if (!out && is_uart) *data = uart_read(number - COM1);
        else if (!out) memset(data, number == CMOS_DATA ? 0 : 0xff, run->io.size);
    }
}

static int run_guest(int kvm) {
    int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) die("kvm_run");
    for (;;) {
        if (ioctl(vcpu, KVM_RUN, 0) < 0 && errno != EINTR) die("KVM_RUN");
        switch (run->exit_reason) {
            case KVM_EXIT_IO: port(run); break;
            case KVM_EXIT_MMIO:
                if (!run->mmio.is_write) memset(run->mmio.data, 0xff, sizeof run->mmio.data);
                break;
            case KVM_EXIT_INTR: break;
            case KVM_EXIT_SHUTDOWN: return 139;
            default:
                fprintf(stderr, "vmm: exit reason %u\n", run->exit_reason);
                return DIED;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5 || strlen(argv[4]) >= 2048) {
        fprintf(stderr, "usage: vmm KERNEL INITRAMFS MEBIBYTES COMMAND-LINE\n");
        return 64;
    }
    memory_size = strtoull(argv[3], NULL, 10) << 20;
    if (memory_size < 64 << 20 || memory_size > 1 << 30) {
        fprintf(stderr, "vmm: 64 to 1024 MiB, please\n");
        return 64;
    }
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) die("/dev/kvm");
    vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
    call(vm, KVM_SET_TSS_ADDR, (void *)(uintptr_t)TSS, "KVM_SET_TSS_ADDR");
    call(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    call(vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
    make_memory();
    struct boot_params *boot = (struct boot_params *)(memory + ZERO_PAGE);
    uint64_t entry = load_kernel(argv[1]);
    load_initramfs(argv[2], boot);
    describe_machine(boot, argv[4]);
    vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
    set_cpuid(kvm);
    wire_pic();
    make_page_tables();
    set_registers(entry);
    return run_guest(kvm);
}
