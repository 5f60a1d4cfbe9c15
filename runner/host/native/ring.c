/* The split virtqueue from the device's side (virtio 1.2 §2.7), for data paths in C.
 *
 * The driver is hostile: each descriptor is copied once and only the copy is used, a chain
 * ends within queue-size steps, every buffer lies inside one RAM region, a head is in
 * flight at most once, and the available index is at most queue-size ahead.  The rules and
 * the numbers in the comments are those of runner/bus/virtqueue.py; tests run
 * hostile rings against both. */

#define VMRUN_RING_MOST 1024

struct vmrun_desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct vmrun_chain {
    uint16_t head;
    uint16_t out, in;                       /* entries of iov: device-readable, then device-writable */
    uint64_t bytes;                         /* of all entries; the used ring has 32 bits for a length */
    struct iovec iov[VMRUN_RING_MOST];
};

static void *vmrun_ring_at(const struct vmrun_ring *ring, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < ring->regions; i++) {
        const struct vmrun_ram *ram = &ring->ram[i];
        if (address >= ram->start && address - ram->start <= ram->size &&
            length <= ram->size - (address - ram->start))
            return ram->host + (address - ram->start);
    }
    return NULL;
}

static int vmrun_ring_open(struct vmrun_ring *ring, uint64_t desc, uint64_t avail, uint64_t used)
{
    uint32_t n = ring->size;
    if (n == 0 || n > VMRUN_RING_MOST || (ring->most && n > ring->most) || (n & (n - 1)) ||
        (desc & 15) || (avail & 1) || (used & 3))
        return -EINVAL;
    ring->desc = vmrun_ring_at(ring, desc, 16ull * n);
    ring->avail = vmrun_ring_at(ring, avail, 6 + 2ull * n);
    ring->used = vmrun_ring_at(ring, used, 6 + 8ull * n);
    if (!ring->desc || !ring->avail || !ring->used)
        return -EFAULT;
    /* The rings may have been served before (a driver that comes back after a migration). */
    ring->used_idx = ring->used[1];
    ring->last_avail = ring->used_idx;
    memset(ring->in_flight, 0, sizeof ring->in_flight);
    return 0;
}

static void vmrun_ring_add(struct vmrun_chain *chain, void *at, uint32_t length, int writable)
{
    struct iovec *entry = &chain->iov[chain->out + chain->in];
    entry->iov_base = at;
    entry->iov_len = length;
    if (writable)
        chain->in++;
    else
        chain->out++;
}

/* Copy what the driver may change meanwhile: from here on the compiler, too, uses the copy and nothing else. */
static void vmrun_ring_copy(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    __asm__ volatile("" ::: "memory");
}

/* Follow ``table`` from ``index``, which is in it, after so many ``steps``; ``depth`` 1 inside an indirect
 * table, which nests no further. */
static int vmrun_ring_follow(struct vmrun_ring *ring, const struct vmrun_desc *table, uint32_t entries,
                             uint32_t index, uint32_t steps, int depth, struct vmrun_chain *chain)
{
    for (; steps < ring->size; steps++) {
        struct vmrun_desc d;
        vmrun_ring_copy(&d, &table[index], sizeof d);
        if (d.flags & DESC_INDIRECT) {
            if (depth || (d.flags & DESC_NEXT) || !ring->indirect)
                return -ELOOP;
            if (d.len == 0 || d.len % 16 || d.len / 16 > ring->size)
                return -EOVERFLOW;
            const struct vmrun_desc *inner = vmrun_ring_at(ring, d.addr, d.len);
            if (!inner)
                return -EFAULT;
            return vmrun_ring_follow(ring, inner, d.len / 16, 0, steps, 1, chain);
        }
        int writable = d.flags & DESC_WRITE;
        if (!writable && chain->in)
            return -EPROTO; /* §2.7.4.2: device-readable parts come first */
        if (d.len) {
            void *at = vmrun_ring_at(ring, d.addr, d.len);
            if (!at)
                return -EFAULT;
            chain->bytes += d.len;
            if (chain->out + chain->in >= VMRUN_RING_MOST || chain->bytes > UINT32_MAX)
                return -EOVERFLOW;
            vmrun_ring_add(chain, at, d.len, writable);
        }
        if (!(d.flags & DESC_NEXT))
            return 1;
        index = d.next;
        if (index >= entries)
            return -ERANGE;
    }
    return -ELOOP;
}

/* The next chain: 1 with it, 0 when there is none, a negative errno when a rule is broken. */
static int vmrun_ring_next(struct vmrun_ring *ring, struct vmrun_chain *chain)
{
    uint16_t index = __atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE);
    uint16_t waiting = index - ring->last_avail;
    if (waiting == 0)
        return 0;
    if (waiting > ring->size)
        return -ERANGE;
    uint16_t head = __atomic_load_n(&ring->avail[2 + (ring->last_avail & (ring->size - 1))], __ATOMIC_RELAXED);
    if (head >= ring->size)
        return -ERANGE;
    if (ring->in_flight[head])
        return -EBUSY;
    chain->head = head;
    chain->out = chain->in = 0;
    chain->bytes = 0;
    int result = vmrun_ring_follow(ring, ring->desc, ring->size, head, 0, 0, chain);
    if (result > 0) {
        ring->in_flight[head] = 1;
        ring->last_avail++;
    }
    return result;
}

/* Whether the driver has offered more than has been taken. */
static int vmrun_ring_waiting(const struct vmrun_ring *ring)
{
    return __atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE) != ring->last_avail;
}

static void vmrun_ring_push(struct vmrun_ring *ring, uint16_t head, uint32_t written)
{
    uint32_t *slot = (uint32_t *)((uint8_t *)ring->used + 4 + 8 * (ring->used_idx & (ring->size - 1)));
    slot[0] = head;
    slot[1] = written;
    ring->in_flight[head] = 0;
    ring->used_idx++;
    __atomic_store_n(&ring->used[1], ring->used_idx, __ATOMIC_RELEASE);
}

/* Whether the driver wants to hear of what was pushed since ``before`` (§2.7.7). */
static int vmrun_ring_wants(struct vmrun_ring *ring, uint16_t before)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (before == ring->used_idx)
        return 0;
    if (!ring->event_idx)
        return !(ring->avail[0] & 1);
    uint16_t event = ring->avail[2 + ring->size];
    return (uint16_t)(ring->used_idx - event - 1) < (uint16_t)(ring->used_idx - before);
}

/* Ask for a doorbell at the next chain, or (while we look ourselves) for none.
 * Returns 1 when a chain came in between, so that it would be missed. */
static int vmrun_ring_listen(struct vmrun_ring *ring, int on)
{
    if (ring->event_idx)
        *(uint16_t *)((uint8_t *)ring->used + 4 + 8 * ring->size) = on ? ring->last_avail : ring->last_avail - 1;
    else
        ring->used[0] = on ? 0 : 1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vmrun_ring_waiting(ring);
}

static uint64_t vmrun_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
