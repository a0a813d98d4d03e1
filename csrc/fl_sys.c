#include "fl_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EAGAIN_TRIES 256

static bool openat2_usable;
static pthread_once_t probed = PTHREAD_ONCE_INIT;

static int raw_openat2(int dir_fd, const char *path, int flags, mode_t mode,
                       uint64_t resolve)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = mode,
        .resolve = resolve,
    };

    return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
}

static void probe(void)
{
    const char *off = getenv("FASTLAYER_NO_OPENAT2");
    int fd;

    if (off != NULL && off[0] != '\0' && strcmp(off, "0") != 0)
        return;
    fd = raw_openat2(AT_FDCWD, ".", O_PATH, 0, 0);
    openat2_usable = fd >= 0 || (errno != ENOSYS && errno != EPERM);
    if (fd >= 0)
        close(fd);
}

bool fl_sys_has_openat2(void)
{
    pthread_once(&probed, probe);
    return openat2_usable;
}

int fl_sys_openat2(int dir_fd, const char *path, int flags, mode_t mode,
                   uint64_t resolve)
{
    int fd = -1;

    for (int i = 0; i < EAGAIN_TRIES; i++) {
        fd = raw_openat2(dir_fd, path, flags, mode, resolve);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd;
}
