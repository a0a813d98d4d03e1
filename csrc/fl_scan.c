#include "fl_scan.h"

#include <errno.h>
#include <sys/stat.h>

#include "fl_walk.h"

int fl_scan_init(struct fl_scan *s, int root_fd, const struct fl_scan_options *options,
                 struct fl_error *err)
{
    memset(s, 0, sizeof(*s));
    if (options->ignore != NULL) {
        if (fl_ignore_compile(&s->program, options->ignore, options->ignore_len, err) < 0)
            return -1;
        s->ignores = s->program.count != 0;
    }
    if (options->only != NULL)
        s->source = fl_pick_open(root_fd, options->only, options->policy, err);
    else
        s->source = fl_walk_open(root_fd, options->policy, true, s->ignores ? &s->program : NULL, err);
    if (options->only != NULL && s->ignores)
        s->ignore.program = &s->program;
    if (s->source == NULL)
        fl_ignore_program_free(&s->program);
    return s->source == NULL ? -1 : 0;
}

void fl_scan_free(struct fl_scan *s)
{
    fl_source_free(s->source);
    s->source = NULL;
    fl_buf_free(&s->records);
    fl_buf_free(&s->heap);
    fl_ignore_free(&s->ignore);
    fl_ignore_program_free(&s->program);
    fl_hold_free(&s->hold);
}

static int deliver(struct fl_scan *s, const struct fl_entry *e, const uint8_t *heap,
                   struct fl_error *err)
{
    struct fl_entry copy = *e;

    copy.flags = 0;
    s->dropped_xattrs += fl_entry_dropped(e);
    s->entries++;
    if (fl_buf_add(&s->heap, heap + e->path_off,
                   (size_t)e->path_len + e->link_len + e->xattr_len,
                   &copy.path_off, err) < 0)
        return -1;
    return fl_buf_add(&s->records, &copy, sizeof(copy), NULL, err);
}

/* enum fl_ignore_verdict, or -1. */
static int judge(struct fl_scan *s, const struct fl_entry *e, struct fl_error *err)
{
    if (s->ignore.program != NULL)
        return fl_ignore_look_path(&s->ignore, s->batch.heap + e->path_off, e->path_len,
                                   S_ISDIR(e->mode), err);
    return e->flags & FL_ENTRY_PASSED ? FL_IGNORE_PASS : FL_IGNORE_KEEP;
}

static int take(struct fl_scan *s, const struct fl_entry *e, struct fl_error *err)
{
    int verdict = judge(s, e, err);

    if (verdict < 0 || verdict == FL_IGNORE_OUT)
        return verdict < 0 ? -1 : 0;
    if (S_ISSOCK(e->mode)) {
        s->skipped_sockets++;
        return 0;
    }
    if (!s->ignores)
        return deliver(s, e, s->batch.heap, err);
    return fl_hold_add(&s->hold, e, s->batch.heap, verdict == FL_IGNORE_PASS, err);
}

/* The next batch of the source. */
static int fetch(struct fl_scan *s, struct fl_error *err)
{
    s->at = 0;
    if (fl_source_next(s->source, &s->batch, err) < 0)
        return -1;
    s->ended = s->batch.count == 0;
    if (s->ended)
        fl_hold_end(&s->hold);
    return 0;
}

int fl_scan_next(struct fl_scan *s, uint32_t max, struct fl_error *err)
{
    s->records.len = s->heap.len = 0;
    while (s->records.len < (size_t)max * sizeof(struct fl_entry)) {
        const struct fl_entry *held = fl_hold_take(&s->hold);
        int r;

        if (held == NULL && s->ended)
            break;
        if (held != NULL)
            r = deliver(s, held, s->hold.heap.data, err);
        else
            r = s->at < s->batch.count ? take(s, &s->batch.entries[s->at++], err) : fetch(s, err);
        if (r < 0)
            return -1;
    }
    return s->records.len != 0;
}

/* ---- contents ---- */

void fl_read_many_init(struct fl_read_many *r, int root_fd)
{
    fl_open_init(&r->open, root_fd);
}

void fl_read_many_free(struct fl_read_many *r)
{
    fl_open_free(&r->open);
}

static int changed(const uint8_t *path, uint32_t len, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, path, len,
                        "changed while it was read; try again when the tree is quiet");
}

static int read_exactly(int fd, uint8_t *buf, size_t size, const uint8_t *path,
                        uint32_t len, struct fl_error *err)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, buf + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fl_error_os(err, errno, "read", path, len);
        if (n == 0)
            return changed(path, len, err);
        done += (size_t)n;
    }
    return 0;
}

/* Still the size it had? */
static int check_size(int fd, off_t size, const uint8_t *path, uint32_t len,
                      struct fl_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "stat", path, len);
    return st.st_size == size ? 0 : changed(path, len, err);
}

int fl_read_many_next(struct fl_read_many *r, const uint8_t *path, uint32_t len,
                      uint8_t *buf, size_t room, int64_t *ret_len,
                      struct fl_error *err)
{
    cleanup_fd int fd = -1;
    struct stat st;

    *ret_len = -1;
    if (fl_open_file(&r->open, path, len, &fd, err) < 0)
        return err->kind == FL_ERR_CHANGED ? 1 : -1;
    if (fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "stat", path, len);
    if (!S_ISREG(st.st_mode))
        return 1;
    if ((uint64_t)st.st_size > room)
        return 0;
    if (read_exactly(fd, buf, (size_t)st.st_size, path, len, err) < 0 ||
        check_size(fd, st.st_size, path, len, err) < 0)
        return -1;
    *ret_len = st.st_size;
    return 1;
}
