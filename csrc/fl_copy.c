#include "fl_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fl_sys.h"

#define BUF_SIZE (256u << 10)      /* fits the second-level cache */
#define RANGE_SIZE (8u << 20)      /* between two looks at stop */

void fl_copy_free(struct fl_copy *c)
{
    free(c->buf);
    c->buf = NULL;
}

/* The memory of what works from this source device; the last place is reused when there are many. */
static struct fl_copy_pair *find_pair(struct fl_copy *c, dev_t src)
{
    struct fl_copy_pair *p;
    unsigned i;

    for (i = 0; i < c->pair_count; i++)
        if (c->pairs[i].src == src)
            return &c->pairs[i];
    if (c->pair_count < FL_COPY_PAIRS)
        c->pair_count++;
    p = &c->pairs[c->pair_count - 1];
    *p = (struct fl_copy_pair){.src = src};
    return p;
}

/* The pair will never do it; anything else concerns this file only. */
static bool never_works(int errnum)
{
    return errnum == EOPNOTSUPP || errnum == EXDEV || errnum == ENOTTY || errnum == ENOSYS;
}

/* EINVAL: flags of one of the two files (btrfs nodatacow); EPERM, ETXTBSY: immutable or swap file. */
static bool not_this_one(int errnum)
{
    return errnum == EINVAL || errnum == EPERM || errnum == ETXTBSY || errnum == EBADF;
}

static bool stopped(const struct fl_copy *c)
{
    return c->stop != NULL && atomic_load_explicit(c->stop, memory_order_relaxed);
}

static int fail_changed(struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "file became shorter while it was copied");
}

/* What the answer r of an attempt to share extents means: 1 = done, 0 = another way is needed. */
static int judge_clone(bool *never, int r, const char *op, struct fl_error *err)
{
    if (r == 0)
        return 1;
    if (never_works(errno))
        *never = true;
    else if (!not_this_one(errno))
        return fl_error_os(err, errno, op, NULL, 0);
    return 0;
}

static int try_clone(bool *never, int src, int dst, struct fl_error *err)
{
    return *never ? 0 : judge_clone(never, fl_sys_ficlone(dst, src), "FICLONE", err);
}

/* Moves [*off, end) inside the kernel, `shift` bytes further on in dst, and advances *off; stops short where that does
 * not work. */
static int copy_range(struct fl_copy *c, struct fl_copy_pair *p, int src, int dst, off_t *off, off_t end, off_t shift,
                      struct fl_error *err)
{
    while (*off < end && !p->no_range && !stopped(c)) {
        int64_t in = *off, out = *off + shift;
        size_t want = end - *off > RANGE_SIZE ? RANGE_SIZE : (size_t)(end - *off);
        ssize_t n = fl_sys_copy_file_range(src, &in, dst, &out, want);

        if (n == 0)
            return 0;
        if (n < 0 && never_works(errno))
            p->no_range = true;
        else if (n < 0)
            return not_this_one(errno) ? 0 : fl_error_os(err, errno, "copy_file_range", NULL, 0);
        else
            *off += n;
    }
    return 0;
}

static int write_all(int dst, const uint8_t *data, size_t n, off_t off, struct fl_error *err)
{
    while (n != 0) {
        ssize_t done = pwrite(dst, data, n, off);

        if (done < 0)
            return fl_error_os(err, errno, "write", NULL, 0);
        data += done;
        off += done;
        n -= (size_t)done;
    }
    return 0;
}

/* The same through memory; stops short at the end of a file that became shorter. */
static int copy_plain(struct fl_copy *c, int src, int dst, off_t *off, off_t end, off_t shift, struct fl_error *err)
{
    if (*off < end && c->buf == NULL && (c->buf = malloc(BUF_SIZE)) == NULL)
        return fl_error_memory(err);
    while (*off < end && !stopped(c)) {
        size_t want = end - *off > BUF_SIZE ? BUF_SIZE : (size_t)(end - *off);
        ssize_t n = pread(src, c->buf, want, *off);

        if (n < 0)
            return fl_error_os(err, errno, "read", NULL, 0);
        if (n == 0)
            return c->live ? 0 : fail_changed(err);
        if (write_all(dst, c->buf, (size_t)n, *off + shift, err) < 0)
            return -1;
        *off += n;
    }
    return 0;
}

static int copy_segment(struct fl_copy *c, struct fl_copy_pair *p, int src, int dst, off_t off, off_t end, off_t shift,
                        struct fl_error *err)
{
    off_t start = off;

    if (copy_range(c, p, src, dst, &off, end, shift, err) < 0 || copy_plain(c, src, dst, &off, end, shift, err) < 0)
        return -1;
    if (stopped(c))
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "stopped");
    c->copied += (uint64_t)(off - start);
    return 0;
}

/* Is there no hole at all? One call that most files stop at; st_blocks cannot tell, because it also counts what is
 * reserved beyond the end. A file system that knows no holes has none. */
static bool is_dense(int src, off_t size)
{
    off_t hole = lseek(src, 0, SEEK_HOLE);

    return hole < 0 ? errno != ENXIO : hole >= size;
}

/* The next data in [*off, size): 1 = [*off, *ret_end), 0 = only a hole is left. */
static int next_data(int src, off_t *off, off_t size, off_t *ret_end)
{
    off_t data = *off < size ? lseek(src, *off, SEEK_DATA) : size;

    if (data >= size || (data < 0 && errno == ENXIO))
        return 0;
    if (data >= 0) /* else it cannot tell holes: all of it is data */
        *off = data;
    *ret_end = data < 0 ? size : lseek(src, data, SEEK_HOLE);
    if (*ret_end < 0 || *ret_end > size)
        *ret_end = size;
    return 1;
}

/* Bytes of a file that are in no hole. */
static uint64_t count_data(const struct fl_copy *c, int src, off_t size)
{
    uint64_t bytes = 0;

    if (is_dense(src, size))
        return (uint64_t)size;
    for (off_t off = 0, end; !stopped(c) && next_data(src, &off, size, &end); off = end)
        bytes += (uint64_t)(end - off);
    return bytes;
}

/* Where the copy of a file ends that had `size` bytes. */
static off_t end_of(const struct fl_copy *c, int src, off_t size)
{
    struct stat now;

    return c->live && fstat(src, &now) == 0 && now.st_size < size ? now.st_size : size;
}

/* Data segments only; the last hole is made by the size. */
static int copy_sparse(struct fl_copy *c, struct fl_copy_pair *p, int src, off_t size, int dst, struct fl_error *err)
{
    for (off_t off = 0, end; next_data(src, &off, size, &end); off = end)
        if (copy_segment(c, p, src, dst, off, end, 0, err) < 0)
            return -1;
    if (ftruncate(dst, end_of(c, src, size)) < 0)
        return fl_error_os(err, errno, "ftruncate", NULL, 0);
    return 0;
}

bool fl_copy_wants_behind(struct fl_copy *c, const struct stat *st)
{
    return st->st_size != 0 && !find_pair(c, st->st_dev)->no_behind;
}

int fl_copy_behind(struct fl_copy *c, int src, const struct stat *st, int dst, int real_src, int real_dst,
                   struct fl_error *err)
{
    struct fl_copy_pair *p = find_pair(c, st->st_dev);
    int done = try_clone(&p->no_behind, real_src < 0 ? src : real_src, real_dst < 0 ? dst : real_dst, err);

    if (done > 0)
        c->shared += count_data(c, src, st->st_size);
    return done;
}

int fl_copy_data(struct fl_copy *c, int src, const struct stat *st, int dst, struct fl_error *err)
{
    struct fl_copy_pair *p;
    int done;

    if (st->st_size == 0)
        return 0;
    p = find_pair(c, st->st_dev);
    done = try_clone(&p->no_clone, src, dst, err);
    if (done > 0)
        c->shared += count_data(c, src, st->st_size);
    if (done != 0)
        return done < 0 ? -1 : 0;
    if (!is_dense(src, st->st_size))
        return copy_sparse(c, p, src, st->st_size, dst, err);
    return copy_segment(c, p, src, dst, 0, st->st_size, 0, err);
}

int fl_copy_extent(struct fl_copy *c, int src, uint64_t off, int dst, uint64_t pos, uint64_t len, struct fl_error *err)
{
    struct fl_copy_pair *p;
    struct stat st;
    int done = 0;

    if (off > INT64_MAX - len || pos > INT64_MAX - len)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "no file is that long");
    if (fstat(src, &st) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    p = find_pair(c, st.st_dev);
    if (!p->no_clone)
        done = judge_clone(&p->no_clone, fl_sys_ficlonerange(dst, (int64_t)pos, src, (int64_t)off, len),
                           "FICLONERANGE", err);
    if (done > 0)
        c->shared += len;
    if (done != 0)
        return done < 0 ? -1 : 0;
    return copy_segment(c, p, src, dst, (off_t)off, (off_t)(off + len), (off_t)pos - (off_t)off, err);
}
