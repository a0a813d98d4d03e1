#include "fl_extract_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* RENAME_NOREPLACE */
#include <sys/stat.h>

#include "fl_open.h"
#include "fl_sys.h"

#define DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define CONTENT (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

/* The entry's directory in the donor, or a negative number. */
static int open_dir(struct fl_extract *x)
{
    char *text = (char *)x->name.text.data;
    size_t len = x->name.dir_len;
    char end;
    int fd;

    if (len == 0)
        return fl_open_beneath(x->opt.donor, text, 0, DIRECTORY);
    end = text[len];
    text[len] = '\0';
    fd = fl_open_beneath(x->opt.donor, text, len, DIRECTORY);
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\0')
            text[i] = '/';
    text[len] = end;
    return fd;
}

/* The whole content of the entry, or -1: files are written from their beginning, so one of that size has all of it. */
static int open_file(int dir, const char *name, uint64_t size)
{
    struct stat st;
    int fd = openat(dir, name, CONTENT);

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == size)
        return fd;
    close(fd);
    return -1;
}

int fl_donor_take(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_writing *w = &x->writing;
    int to, dir, fd;

    if (!x->has_donor || e->size == 0)
        return 0;
    to = fl_path_fd(&x->path, at.dir, err);
    if (to < 0)
        return -1;
    dir = open_dir(x);
    if (dir < 0)
        return 0;
    fd = open_file(dir, at.name, e->size);
    if (fd >= 0 && fl_sys_renameat2(dir, at.name, to, at.name, RENAME_NOREPLACE) < 0) {
        close(fd);
        fd = -1;
    }
    close(dir);
    if (fd < 0)
        return 0;
    x->stats.donated += e->size;
    w->fd = fd;
    w->end = e->size;
    w->is_donated = true;
    w->created = FL_DONOR_MODE;
    return 1;
}

int fl_donor_check(const struct fl_extract *x, struct fl_error *err)
{
    if (x->stats.donated == 0)
        return 0;
    return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "replaces another entry, of which it is not known what is left");
}
