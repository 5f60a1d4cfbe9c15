/* io_uring by its three system calls: one ring a queue, made before the process confines itself
 * and restricted to the operations a disk needs, since a ring is not bound by seccomp. */

#include <linux/io_uring.h>

static int vmrun_uring_open(struct vmrun_uring *u, unsigned entries)
{
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    memset(u, 0, sizeof *u);
    p.flags = IORING_SETUP_R_DISABLED;
    u->fd = syscall(SYS_io_uring_setup, entries, &p);
    if (u->fd < 0)
        return -errno;
    static const uint8_t operations[] = {
        IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD,
    };
    struct io_uring_restriction limits[sizeof operations + 2];
    memset(limits, 0, sizeof limits);
    for (unsigned i = 0; i < sizeof operations; i++) {
        limits[i].opcode = IORING_RESTRICTION_SQE_OP;
        limits[i].sqe_op = operations[i];
    }
    limits[sizeof operations].opcode = IORING_RESTRICTION_REGISTER_OP;
    limits[sizeof operations].register_op = IORING_REGISTER_ENABLE_RINGS;
    limits[sizeof operations + 1].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    limits[sizeof operations + 1].sqe_flags = IOSQE_ASYNC;
    if (syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_RESTRICTIONS, limits, sizeof operations + 2) < 0 ||
        syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
        int saved = errno;
        close(u->fd);
        return -saved;
    }
    u->ring_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t completions = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    if (completions > u->ring_size)
        u->ring_size = completions;
    u->ring = mmap(NULL, u->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
    u->sqes_size = p.sq_entries * sizeof(struct io_uring_sqe);
    u->sqes = mmap(NULL, u->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
    if (u->ring == MAP_FAILED || u->sqes == MAP_FAILED)
        return -ENOMEM;
    uint8_t *base = u->ring;
    u->sq_tail = (unsigned *)(base + p.sq_off.tail);
    u->sq_array = (unsigned *)(base + p.sq_off.array);
    u->cq_head = (unsigned *)(base + p.cq_off.head);
    u->cq_tail = (unsigned *)(base + p.cq_off.tail);
    u->cqes = (struct io_uring_cqe *)(base + p.cq_off.cqes);
    u->sq_mask = p.sq_entries - 1;
    u->cq_mask = p.cq_entries - 1;
    return 0;
}

static void vmrun_uring_close(struct vmrun_uring *u)
{
    if (u->ring)
        munmap(u->ring, u->ring_size);
    if (u->sqes)
        munmap(u->sqes, u->sqes_size);
    close(u->fd);
    memset(u, 0, sizeof *u);
}

/* A cleared submission entry; the ring has two a request: one for it, and more than there are eventfds and halves. */
static struct io_uring_sqe *vmrun_uring_sqe(struct vmrun_uring *u, uint8_t operation, int fd, uint64_t user)
{
    unsigned index = *u->sq_tail & u->sq_mask;
    struct io_uring_sqe *sqe = &u->sqes[index];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = operation;
    sqe->fd = fd;
    sqe->user_data = user;
    u->sq_array[index] = index;
    __atomic_store_n(u->sq_tail, *u->sq_tail + 1, __ATOMIC_RELEASE);
    u->unsubmitted++;
    return sqe;
}

static int vmrun_uring_enter(struct vmrun_uring *u, unsigned wait)
{
    for (;;) {
        int done = syscall(SYS_io_uring_enter, u->fd, u->unsubmitted, wait,
                           wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0);
        if (done >= 0) {
            u->unsubmitted -= done;
            return 0;
        }
        if (errno != EINTR)
            return -errno;
    }
}

static int vmrun_uring_reap(struct vmrun_uring *u, uint64_t *user, int32_t *result)
{
    unsigned head = *u->cq_head;
    if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE))
        return 0;
    *user = u->cqes[head & u->cq_mask].user_data;
    *result = u->cqes[head & u->cq_mask].res;
    __atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
    return 1;
}
