/* VFIO calls whose argument has a variable tail (Documentation/driver-api/vfio.rst, linux/vfio.h). */

#include <linux/vfio.h>

/* Region info with its capability chain into ``table``; -ENOSPC when the room is too small. */
static int vmrun_vfio_region(int device, uint32_t index, void *table, uint32_t room)
{
    struct vfio_region_info *info = table;
    memset(table, 0, room);
    info->argsz = room;
    info->index = index;
    int result = vmrun_ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info);
    if (result < 0)
        return result;
    return info->argsz > room ? -ENOSPC : 0;
}

/* Set or clear triggers: ``count`` eventfds from vector ``start``; count 0 with DATA_NONE disables all. */
static int vmrun_vfio_irqs(int device, uint32_t index, uint32_t flags, uint32_t start,
                           const int *fds, uint32_t count)
{
    size_t tail = flags & VFIO_IRQ_SET_DATA_EVENTFD ? count * sizeof(int) : 0;
    struct vfio_irq_set *set = calloc(1, sizeof *set + tail);
    if (!set)
        return -ENOMEM;
    set->argsz = sizeof *set + tail;
    set->flags = flags;
    set->index = index;
    set->start = start;
    set->count = count;
    if (tail)
        memcpy(set->data, fds, tail);
    int result = vmrun_ioctl(device, VFIO_DEVICE_SET_IRQS, set);
    free(set);
    return result;
}

static void *vmrun_map_shared(int fd, uint64_t size, uint64_t offset, int writable)
{
    void *at = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, offset);
    return at == MAP_FAILED ? NULL : at;
}
