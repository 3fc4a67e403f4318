/* Preloaded into Debian's xenstored (4.17 or 4.20, the one in C), so that it runs where there is no Xen.
 *
 * It answers for the hypervisor alone: no event ever comes, every domain lives, and dom0's ring of requests is an empty
 * page. Clients come by the Unix socket, and what they get is xenstored's own doing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

static char handle; /* its address stands for any library's handle */
static int events = -1;
static int next_port = 1;

/* libxenctrl */

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    return &handle;
}

int xc_interface_close(void *xch)
{
    return 0;
}

/* xc_dominfo_t begins with domid, ssidref and the flags: dying, crashed, shutdown. */
int xc_domain_getinfo(void *xch, uint32_t first, unsigned max, uint32_t *info)
{
    memset(info, 0, 3 * sizeof *info);
    info[0] = first;
    return 1;
}

/* Xen 4.18 and newer. xc_domaininfo_t begins with domid, 16 bits of padding and the flags. */
int xc_domain_getinfo_single(void *xch, uint32_t domid, uint32_t *info)
{
    info[0] = domid;
    info[1] = 0;
    return 0;
}

/* libxengnttab */

void *xengnttab_open(void *logger, unsigned flags)
{
    return &handle;
}

int xengnttab_close(void *xgt)
{
    return 0;
}

int xengnttab_set_max_grants(void *xgt, uint32_t count)
{
    return 0;
}

void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
    return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int xengnttab_unmap(void *xgt, void *start, uint32_t count)
{
    return munmap(start, (size_t)count * PAGE);
}

/* libxenevtchn: a descriptor that is never ready */

void *xenevtchn_open(void *logger, unsigned flags)
{
    events = eventfd(0, EFD_CLOEXEC);
    return &handle;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    events = fd;
    return &handle;
}

int xenevtchn_fd(void *xce)
{
    return events;
}

int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port)
{
    return next_port++;
}

int xenevtchn_bind_virq(void *xce, unsigned virq)
{
    return next_port++;
}

int xenevtchn_unbind(void *xce, uint32_t port)
{
    return 0;
}

int xenevtchn_notify(void *xce, uint32_t port)
{
    return 0;
}

int xenevtchn_unmask(void *xce, uint32_t port)
{
    return 0;
}

int xenevtchn_pending(void *xce)
{
    return -1;
}

/* The files of xenfs that tell dom0's event channel and show its ring. */
static int stand_in(const char *path)
{
    int fd = memfd_create("xenfs", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, PAGE))
        return -1;
    if (!strcmp(path, "/proc/xen/xsd_port") && pwrite(fd, "1", 1, 0) != 1)
        return -1;
    return fd;
}

int open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    va_list rest;
    int mode;

    if (!strcmp(path, "/proc/xen/xsd_port") || !strcmp(path, "/proc/xen/xsd_kva"))
        return stand_in(path);
    va_start(rest, flags);
    mode = flags & O_CREAT ? va_arg(rest, int) : 0;
    va_end(rest);
    return real(path, flags, mode);
}
