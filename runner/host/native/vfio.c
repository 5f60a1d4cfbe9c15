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

/* Groups of all functions that a reset of this one's slot or bus would hit; how many, or -errno. */
static int vmrun_vfio_affected(int device, uint32_t *groups, uint32_t room)
{
    struct vfio_pci_hot_reset_info *info = calloc(1, sizeof *info + room * sizeof info->devices[0]);
    if (!info)
        return -ENOMEM;
    info->argsz = sizeof *info + room * sizeof info->devices[0];
    int result = vmrun_ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
    if (result == 0) {
        result = info->count;
        for (uint32_t i = 0; i < info->count && i < room; i++)
            groups[i] = info->devices[i].group_id;
    }
    free(info);
    return result;
}

/* Reset the slot or bus; the caller shows by their descriptors that all groups on it are its own. */
static int vmrun_vfio_bus_reset(int device, const int *groups, uint32_t count)
{
    struct vfio_pci_hot_reset *reset = calloc(1, sizeof *reset + count * sizeof(int));
    if (!reset)
        return -ENOMEM;
    reset->argsz = sizeof *reset + count * sizeof(int);
    reset->count = count;
    memcpy(reset->group_fds, groups, count * sizeof(int));
    int result = vmrun_ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, reset);
    free(reset);
    return result;
}

static void *vmrun_map_shared(int fd, uint64_t size, uint64_t offset, int writable)
{
    void *at = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, offset);
    return at == MAP_FAILED ? NULL : at;
}
