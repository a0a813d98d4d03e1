#include "fl_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fl_sort.h"
#include "fl_sys.h"

#define DENTS_SIZE 32768u
#define SCRATCH_MAX (1u << 20) /* bytes kept for sorting; more is mapped for one sort */

struct dirent_record {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

void fl_dir_lists_free(struct fl_dir_lists *l)
{
    fl_buf_free(&l->names);
    fl_buf_free(&l->events);
    fl_buf_free(&l->scratch);
}

static bool is_dots(const char *name)
{
    return name[0] == '.' &&
           (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int add_name(struct fl_dir_lists *l, uint8_t kind, const char *name,
                    size_t len, struct fl_error *err)
{
    uint32_t ref = (uint32_t)l->names.len;
    uint8_t *p;

    if (l->names.len > UINT32_MAX - 1024)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "directory with more than 4 GiB of names");
    if (fl_buf_reserve(&l->names, len + 3, err) < 0)
        return -1;
    p = l->names.data + l->names.len;
    *p++ = kind;
    memcpy(p, name, len);
    p += len;
    if (kind == FL_DIR_DESCEND)
        *p++ = '/';
    *p++ = '\0';
    l->names.len = (size_t)(p - l->names.data);
    return fl_buf_add(&l->events, &ref, sizeof(ref), NULL, err);
}

/* File systems may leave the type to stat; one that vanished is not a directory. */
static bool is_directory(int fd, const struct dirent_record *d)
{
    struct stat st;

    if (d->type != DT_UNKNOWN)
        return d->type == DT_DIR;
    return fstatat(fd, d->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int list(struct fl_dir_lists *l, int fd, struct fl_error *err)
{
    uint8_t dents[DENTS_SIZE] __attribute__((aligned(8)));
    ssize_t n;

    while ((n = fl_sys_getdents64(fd, dents, sizeof(dents))) > 0) {
        const struct dirent_record *d;

        for (ssize_t at = 0; at < n; at += d->reclen) {
            d = (const struct dirent_record *)(dents + at);
            if (is_dots(d->name))
                continue;
            if (add_name(l, FL_DIR_VISIT, d->name, strlen(d->name), err) < 0)
                return -1;
            if (is_directory(fd, d) &&
                add_name(l, FL_DIR_DESCEND, d->name, strlen(d->name), err) < 0)
                return -1;
        }
    }
    return n < 0 ? fl_error_os(err, errno, "getdents64", NULL, 0) : 0;
}

/* ---- sorting ---- */

static bool less_name(const void *ctx, const struct fl_sort_item *a,
                      const struct fl_sort_item *b)
{
    const char *names = ctx;

    return strcmp(names + a->ref, names + b->ref) < 0;
}

static uint32_t common_prefix(const char *a, const char *b, uint32_t max)
{
    uint32_t n = 0;

    while (n < max && a[n] == b[n] && a[n] != '\0')
        n++;
    return n;
}

static void sort_with(uint32_t *events, uint32_t n, const char *names,
                      struct fl_sort_item *items)
{
    uint32_t shared = UINT32_MAX;

    for (uint32_t i = 1; i < n; i++)
        shared = common_prefix(names + events[0] + 1, names + events[i] + 1, shared);
    for (uint32_t i = 0; i < n; i++) {
        const char *rest = names + events[i] + 1 + shared;

        items[i].ref = events[i] + 1;
        items[i].key = fl_sort_key((const uint8_t *)rest, strnlen(rest, 8));
    }
    fl_sort(items, n, items + n, less_name, names);
    for (uint32_t i = 0; i < n; i++)
        events[i] = items[i].ref - 1;
}

/* Freeing a large block would make malloc serve later ones of that size from
 * its heap, where growing means copying. */
static int sort_mapped(uint32_t *events, uint32_t n, const char *names, size_t size,
                       struct fl_error *err)
{
    void *items = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (items == MAP_FAILED)
        return fl_error_memory(err);
    sort_with(events, n, names, items);
    munmap(items, size);
    return 0;
}

static int sort_events(struct fl_dir_lists *l, size_t first, struct fl_error *err)
{
    uint32_t *events = (uint32_t *)(void *)(l->events.data + first);
    uint32_t n = (uint32_t)((l->events.len - first) / sizeof(*events));
    const char *names = (const char *)l->names.data;
    size_t size = (size_t)n * 2 * sizeof(struct fl_sort_item);

    if (n < 2)
        return 0;
    if (size > SCRATCH_MAX)
        return sort_mapped(events, n, names, size, err);
    l->scratch.len = 0;
    if (fl_buf_reserve(&l->scratch, size, err) < 0)
        return -1;
    sort_with(events, n, names, (struct fl_sort_item *)(void *)l->scratch.data);
    return 0;
}

int fl_dir_read(struct fl_dir_lists *l, int fd, struct fl_error *err)
{
    size_t first = l->events.len;

    if (list(l, fd, err) < 0)
        return -1;
    return sort_events(l, first, err);
}
