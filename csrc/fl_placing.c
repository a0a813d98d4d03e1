/* Rows of a change table as entries of a layer: what fl_encode would write of them and fl_tar would read again. */
#include <errno.h>
#include <sys/stat.h>

#include "fl_extract_private.h"
#include "fl_filler.h"

#define BATCH_ROWS 1024u
#define BATCH_BYTES (64u << 20)
#define LARGE (64u << 10)    /* bytes from which on handing a file to a thread pays */
#define NAME_LIMIT 255u
#define MAJOR_LIMIT 4095u
#define MINOR_LIMIT 1048575u
#define SET_IDS 06000

struct fl_placing {
    struct fl_extract *x;
    const struct fl_changes *table;
    struct fl_origin origin;
    struct fl_filler filler;
    bool has_clamp;
    int64_t clamp;
    uint32_t next;               /* index into order                              */
    struct fl_tar_entry entry;
    struct fl_buf path;          /* of entry                                      */
};

struct fl_placing *fl_placing_new(struct fl_extract *x, const struct fl_changes *table, const int *roots,
                                  uint32_t root_count, const int64_t *clamp, unsigned helpers, struct fl_error *err)
{
    struct fl_placing *p = calloc(1, sizeof(*p));

    if (p == NULL || fl_origin_init(&p->origin, table, roots, root_count, err) < 0) {
        free(p);
        fl_error_memory(err);
        return NULL;
    }
    p->x = x;
    p->table = table;
    p->has_clamp = clamp != NULL;
    p->clamp = clamp != NULL ? *clamp : 0;
    fl_filler_init(&p->filler, &p->origin, helpers);
    return p;
}

void fl_placing_stop(struct fl_placing *p)
{
    atomic_store(&p->filler.stop, true);
}

void fl_placing_free(struct fl_placing *p)
{
    if (p == NULL)
        return;
    fl_filler_free(&p->filler);
    fl_origin_free(&p->origin);
    fl_buf_free(&p->path);
    free(p);
}

/* ---- a row as an entry ------------------------------------------------ */

static int set_path(struct fl_placing *p, const uint8_t *path, size_t len, const char *middle, const uint8_t *tail,
                    size_t tail_len, struct fl_error *err)
{
    p->path.len = 0;
    if (fl_buf_add(&p->path, path, len, NULL, err) < 0 || fl_buf_add(&p->path, middle, strlen(middle), NULL, err) < 0 ||
        fl_buf_add(&p->path, tail, tail_len, NULL, err) < 0)
        return -1;
    p->entry.path = p->path.data;
    p->entry.path_len = (uint32_t)p->path.len;
    return 0;
}

/* dir/.wh.NAME */
static int whiteout_entry(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    const uint8_t *path = fl_row_path(p->table, r);
    const uint8_t *slash = r->path_len ? memrchr(path, '/', r->path_len) : NULL;
    size_t dir = slash == NULL ? 0 : (size_t)(slash + 1 - path);

    if (r->path_len == dir)
        return fl_origin_bad_row(p->table, r, err);
    p->entry.type = FL_TAR_FILE;
    return set_path(p, path, dir, ".wh.", path + dir, r->path_len - dir, err);
}

/* The limits that the reader of a tar keeps. */
static int check_xattrs(const struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    const uint8_t *at = fl_row_xattrs(p->table, r), *end = at + r->xattr_len;

    if (r->xattr_len > p->x->opt.max_pax)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "more than %u bytes of extended attributes", p->x->opt.max_pax);
    while (at < end) {
        uint16_t name_len;
        uint32_t value_len;

        if (end - at < 6)
            return fl_origin_bad_row(p->table, r, err);
        memcpy(&name_len, at, sizeof(name_len));
        memcpy(&value_len, at + 2, sizeof(value_len));
        at += 6;
        if (name_len == 0 || name_len > NAME_LIMIT || (uint64_t)(end - at) < (uint64_t)name_len + value_len)
            return fl_error_set(err, FL_ERR_FORMAT, NULL, 0, "an extended attribute without a name that files can have");
        at += (size_t)name_len + value_len;
    }
    return 0;
}

static void set_times(struct fl_placing *p, const struct fl_row *r)
{
    bool late = p->has_clamp && r->mtime_sec >= p->clamp;

    p->entry.mtime_sec = late ? p->clamp : r->mtime_sec;
    p->entry.mtime_nsec = late ? 0 : r->mtime_nsec;
}

static int set_device(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    p->entry.type = S_ISCHR(r->mode) ? FL_TAR_CHAR : FL_TAR_BLOCKDEV;
    p->entry.rdev_major = (uint32_t)(r->size >> 32);
    p->entry.rdev_minor = (uint32_t)r->size;
    if (p->entry.rdev_major > MAJOR_LIMIT || p->entry.rdev_minor > MINOR_LIMIT)
        return fl_error_set(err, FL_ERR_FORMAT, NULL, 0, "device numbers beyond 4095 and 1048575");
    return 0;
}

static int set_link(struct fl_placing *p, const struct fl_row *r, const uint8_t *link, uint32_t len, uint8_t type,
                    struct fl_error *err)
{
    p->entry.type = type;
    p->entry.link = link;
    p->entry.link_len = len;
    return len == 0 ? fl_origin_bad_row(p->table, r, err) : 0;
}

static int set_type(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    struct fl_tar_entry *e = &p->entry;

    if (r->leader != FL_NO_LEADER && !S_ISDIR(r->mode)) {
        const struct fl_row *leader = &p->table->rows[r->leader];

        e->xattr_len = 0;
        return set_link(p, r, fl_row_path(p->table, leader), leader->path_len, FL_TAR_HARDLINK, err);
    }
    if (S_ISLNK(r->mode))
        return set_link(p, r, fl_row_link(p->table, r), r->link_len, FL_TAR_SYMLINK, err);
    if (S_ISCHR(r->mode) || S_ISBLK(r->mode))
        return set_device(p, r, err);
    e->size = S_ISREG(r->mode) ? r->size : 0;
    e->type = S_ISREG(r->mode) ? FL_TAR_FILE : S_ISDIR(r->mode) ? FL_TAR_DIR : FL_TAR_FIFO;
    return S_ISREG(r->mode) || S_ISDIR(r->mode) || S_ISFIFO(r->mode) ? 0 : fl_origin_bad_row(p->table, r, err);
}

static int make_entry(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    struct fl_tar_entry *e = &p->entry;
    const uint8_t *path = fl_row_path(p->table, r);

    *e = (struct fl_tar_entry){.path = path, .path_len = r->path_len};
    if (fl_name_refuse_markers(path, r->path_len, err) < 0)
        return -1;
    if (r->kind == FL_KIND_DELETE)
        return whiteout_entry(p, r, err);
    e->mode = r->mode & 07777u;
    e->uid = r->uid;
    e->gid = r->gid;
    e->xattrs = fl_row_xattrs(p->table, r);
    e->xattr_len = r->xattr_len;
    set_times(p, r);
    if (e->uid == UINT32_MAX || e->gid == UINT32_MAX || (r->path_len == 0 && !S_ISDIR(r->mode)))
        return fl_origin_bad_row(p->table, r, err);
    if (set_type(p, r, err) < 0 || check_xattrs(p, r, err) < 0)
        return -1;
    return S_ISDIR(r->mode) ? set_path(p, path, r->path_len, r->path_len ? "/" : "./", NULL, 0, err) : 0;
}

/* ---- content ---------------------------------------------------------- */

/* What writing takes away again, or what forbids it, comes after the content. */
static bool is_plain(const struct fl_tar_entry *e)
{
    return e->xattr_len == 0 && (e->mode & SET_IDS) == 0;
}

static int fill_here(struct fl_placing *p, struct fl_filler_job *job, struct fl_error *err)
{
    job->keep_to = true;
    if (fl_filler_fill(&p->filler, &p->filler.copy, job, err) < 0)
        return -1;
    p->x->writing.end = job->row->size;
    return fl_extract_close_file(p->x, &p->entry, err);
}

/* With all attributes but the times, which filling changes. */
static int fill_elsewhere(struct fl_placing *p, struct fl_filler_job *job, struct fl_error *err)
{
    struct fl_extract *x = p->x;

    if (fl_owner_file(x, &x->writing, &p->entry, err) < 0) {
        fl_origin_close(&job->from);
        return -1;
    }
    if (!fl_filler_offer(&p->filler, job))
        return fill_here(p, job, err);
    x->writing.fd = -1;
    return 0;
}

static int put_content(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    struct fl_extract *x = p->x;
    struct timespec mtime = {p->entry.mtime_sec, p->entry.mtime_nsec};
    struct fl_filler_job job = {.to = x->writing.fd, .sync = x->opt.fsync, .row = r, .times = {mtime, mtime}};

    if (r->size == 0)
        return fl_extract_close_file(x, &p->entry, err);
    if (fl_origin_open(&p->origin, r, &job.from, err) < 0)
        return -1;
    x->stats.payload += r->size;
    if (r->size >= LARGE && is_plain(&p->entry) && fl_filler_has_room(&p->filler))
        return fill_elsewhere(p, &job, err);
    return fill_here(p, &job, err);
}

/* ---- batches ---------------------------------------------------------- */

static int place_row(struct fl_placing *p, const struct fl_row *r, struct fl_error *err)
{
    int result = make_entry(p, r, err);

    if (result == 0)
        result = fl_extract_take(p->x, &p->entry, err);
    if (result == 0 && p->x->writing.fd >= 0)
        result = put_content(p, r, err);
    if (result < 0)
        fl_error_path(err, p->entry.path, p->entry.path_len);
    return result;
}

static int place_batch(struct fl_placing *p, struct fl_error *err)
{
    uint64_t bytes = 0;
    uint32_t end = p->table->count - p->next > BATCH_ROWS ? p->next + BATCH_ROWS : p->table->count;

    while (p->next < end && bytes < BATCH_BYTES) {
        const struct fl_row *r = &p->table->rows[p->table->order[p->next++]];

        if (fl_work_check(&p->x->work.stop, err) < 0 || fl_filler_look(&p->filler, err) < 0 || place_row(p, r, err) < 0)
            return -1;
        bytes += p->entry.size;
    }
    return p->next < p->table->count;
}

int fl_placing_step(struct fl_placing *p, struct fl_error *err)
{
    int r;

    if (p->table->count != 0 && p->table->order == NULL)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the change table is not finished");
    r = place_batch(p, err);
    if (r == 0)
        r = fl_filler_wait(&p->filler, err);
    if (r < 0) { /* nobody writes any more when the caller hears of it */
        fl_placing_stop(p);
        fl_filler_wait(&p->filler, &(struct fl_error){0});
    }
    p->x->stats.shared = p->filler.copy.shared;
    p->x->stats.copied = p->filler.copy.copied;
    return r;
}
