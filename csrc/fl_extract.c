#include "fl_extract_private.h"

#include <errno.h>

#include "fl_attrs.h"

#define QUICK (256u << 10) /* bytes */

/* ---- the object ------------------------------------------------------- */

static int copy_maps(struct fl_extract *x, struct fl_error *err)
{
    size_t uids = x->opt.uid_map.count, gids = x->opt.gid_map.count;

    if (uids + gids == 0)
        return 0;
    x->ranges = calloc(uids + gids, sizeof(*x->ranges));
    if (x->ranges == NULL)
        return fl_error_memory(err);
    if (uids != 0)
        memcpy(x->ranges, x->opt.uid_map.ranges, uids * sizeof(*x->ranges));
    if (gids != 0)
        memcpy(x->ranges + uids, x->opt.gid_map.ranges, gids * sizeof(*x->ranges));
    x->opt.uid_map.ranges = x->ranges;
    x->opt.gid_map.ranges = x->ranges + uids;
    return 0;
}

static void set_format(struct fl_extract *x)
{
    bool user = x->opt.format == FL_FORMAT_OVERLAY_USERXATTR;

    x->keeps_markers = x->opt.format != FL_FORMAT_DIR;
    x->is_overlay = user || x->opt.format == FL_FORMAT_OVERLAY;
    if (!x->is_overlay)
        return;
    x->xattr_prefix = user ? "user.overlay." : "trusted.overlay.";
    x->xattr_opaque = user ? "user.overlay.opaque" : "trusted.overlay.opaque";
    x->xattr_whiteout = user ? "user.overlay.whiteout" : "trusted.overlay.whiteout";
}

struct fl_extract *fl_extract_new(int target, const struct fl_extract_options *options, struct fl_error *err)
{
    struct fl_extract *x = calloc(1, sizeof(*x));

    if (x == NULL) {
        fl_error_memory(err);
        return NULL;
    }
    x->opt = *options;
    x->writing.fd = -1;
    x->remove.stop = &x->work.stop;
    x->copy.stop = &x->work.stop;
    set_format(x);
    if (copy_maps(x, err) < 0 || fl_path_init(&x->path, target, err) < 0) {
        fl_extract_free(x);
        return NULL;
    }
    return x;
}

static void forget_losses(struct fl_extract *x)
{
    for (int i = 0; i < FL_LOSS_KINDS; i++)
        fl_buf_free(&x->stats.lost[i].example);
    memset(&x->stats, 0, sizeof(x->stats));
}

void fl_extract_free(struct fl_extract *x)
{
    if (x == NULL)
        return;
    if (x->placing != NULL)
        fl_placing_stop(x->placing);
    fl_work_free(&x->work);
    fl_placing_free(x->placing);
    if (x->writing.fd >= 0)
        close(x->writing.fd);
    if (x->in_layer)
        fl_tar_free(&x->tar);
    forget_losses(x);
    fl_path_free(&x->path);
    fl_name_free(&x->name);
    fl_name_free(&x->link);
    fl_remove_free(&x->remove);
    fl_copy_free(&x->copy);
    fl_buf_free(&x->list);
    fl_buf_free(&x->stack);
    free(x->ranges);
    free(x);
}

const struct fl_extract_stats *fl_extract_read_stats(const struct fl_extract *x)
{
    return &x->stats;
}

/* ---- layers ----------------------------------------------------------- */

static int check_usable(const struct fl_extract *x, bool in_layer, struct fl_error *err)
{
    if (x->failed)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the extractor has failed");
    if (x->in_layer != in_layer)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, in_layer ? "call begin_layer first" : "end_layer is missing");
    return 0;
}

static int check_not_placing(const struct fl_extract *x, struct fl_error *err)
{
    if (x->placing == NULL)
        return 0;
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the table has rows that are not placed yet");
}

/* Into an empty target no layer below can have put anything. */
static int look_whether_empty(struct fl_extract *x, struct fl_error *err)
{
    int fd = fl_path_fd(&x->path, 0, err);

    x->list.len = 0;
    if (fd < 0 || fl_remove_list(&x->remove, fd, &x->list, err) < 0)
        return -1;
    if (x->list.len == 0)
        x->path.dirs[0].flags |= FL_DIR_CLEAN;
    return 0;
}

static int begin(struct fl_extract *x, struct fl_error *err)
{
    struct fl_attrs mine = {0};
    struct fl_tar_limits limits = {x->opt.max_pax};

    fl_attrs_init(&mine);
    x->uid = mine.uid;
    x->gid = mine.gid;
    x->umask = mine.umask;
    x->size = 0;
    x->copy.shared = x->copy.copied = 0;
    forget_losses(x);
    if (fl_path_reset(&x->path, err) < 0 || look_whether_empty(x, err) < 0)
        return -1;
    fl_tar_init(&x->tar, &limits);
    x->in_layer = true;
    x->has_donor = x->opt.donor >= 0 && (x->path.dirs[0].flags & FL_DIR_CLEAN);
    return 0;
}

int fl_extract_begin(struct fl_extract *x, struct fl_error *err)
{
    if (check_usable(x, false, err) < 0)
        return -1;
    if (begin(x, err) < 0) {
        x->failed = true;
        return -1;
    }
    return 0;
}

static int check_limit(uint64_t value, uint64_t limit, const char *what, struct fl_error *err)
{
    if (limit == 0 || value <= limit)
        return 0;
    return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "more than %llu %s", (unsigned long long)limit, what);
}

static int count_entry(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err)
{
    x->stats.entries++;
    if (__builtin_add_overflow(x->size, e->size, &x->size))
        x->size = UINT64_MAX;
    if (check_limit(x->stats.entries, x->opt.max_entries, "entries in the layer", err) < 0 ||
        check_limit(e->size, x->opt.max_file_size, "bytes in a file", err) < 0)
        return -1;
    return check_limit(x->size, x->opt.max_size, "bytes in the files of the layer", err);
}

int fl_extract_take(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err)
{
    if (count_entry(x, e, err) < 0 || fl_name_parse(&x->name, e->path, e->path_len, err) < 0)
        return -1;
    switch ((enum fl_name_kind)x->name.kind) {
    case FL_NAME_IGNORED:
        return 0;
    case FL_NAME_WHITEOUT:
    case FL_NAME_OPAQUE:
        x->stats.whiteouts++;
        return fl_whiteout_apply(x, err);
    case FL_NAME_PLAIN:
    case FL_NAME_ROOT:
        break;
    }
    return fl_extract_entry(x, e, err);
}

static int write_data(struct fl_extract *x, const uint8_t *data, size_t len, uint64_t pos, struct fl_error *err)
{
    struct fl_writing *w = &x->writing;

    if (w->fd < 0)
        return 0; /* the body of a marker */
    x->stats.payload += len;
    if (w->is_donated)
        return 0;
    while (len > 0) {
        ssize_t n = pwrite(w->fd, data, len, (off_t)pos);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fl_error_os(err, n < 0 ? errno : EIO, "write", NULL, 0);
        data += n;
        len -= (size_t)n;
        pos += (size_t)n;
    }
    w->end = pos;
    return 0;
}

int fl_extract_close_file(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_writing *w = &x->writing;

    if (w->fd < 0)
        return 0;
    if (w->end < e->size && ftruncate(w->fd, (off_t)e->size) < 0)
        return fl_error_os(err, errno, "ftruncate", NULL, 0);
    if (fl_owner_file(x, w, e, err) < 0)
        return -1;
    if (x->opt.fsync && fsync(w->fd) < 0)
        return fl_error_os(err, errno, "fsync", NULL, 0);
    if (close(w->fd) < 0 && errno != EINTR) {
        w->fd = -1;
        return fl_error_os(err, errno, "close", NULL, 0);
    }
    w->fd = -1;
    return 0;
}

static int take_event(struct fl_extract *x, const struct fl_tar_event *ev, struct fl_error *err)
{
    int r = 0;

    switch ((enum fl_tar_event_kind)ev->kind) {
    case FL_TAR_ENTRY:
        r = fl_extract_take(x, ev->entry, err);
        break;
    case FL_TAR_DATA:
        r = write_data(x, ev->data, ev->data_len, ev->data_pos, err);
        break;
    case FL_TAR_FILE_END:
        r = fl_extract_close_file(x, ev->entry, err);
        break;
    case FL_TAR_END:
        break;
    }
    if (r < 0)
        fl_error_path(err, ev->entry->path, ev->entry->path_len);
    return r;
}

static void close_layer(struct fl_extract *x)
{
    fl_tar_free(&x->tar);
    x->in_layer = x->is_ending = false;
}

static int feed(void *arg, struct fl_error *err)
{
    struct fl_extract *x = arg;
    struct fl_tar_event ev;
    int r;

    while ((r = fl_tar_next(&x->tar, &x->input, &x->input_len, &ev, err)) > 0)
        if ((r = fl_work_check(&x->work.stop, err)) < 0 || (r = take_event(x, &ev, err)) < 0)
            break;
    return r;
}

/* A run of the extent goes to `pos` of the file at hand. */
static int copy_extent(struct fl_extract *x, uint64_t pos, uint64_t len, struct fl_error *err)
{
    if (x->writing.fd < 0)
        return 0; /* the body of a marker */
    x->stats.payload += len;
    if (x->writing.is_donated)
        return 0;
    if (fl_copy_extent(&x->copy, x->extent.fd, x->extent.offset, x->writing.fd, pos, len, err) < 0) {
        fl_error_path(err, x->tar.entry.path, x->tar.entry.path_len);
        return -1;
    }
    x->stats.shared = x->copy.shared;
    x->stats.copied = x->copy.copied;
    x->writing.end = pos + len;
    return 0;
}

static int feed_extent(void *arg, struct fl_error *err)
{
    struct fl_extract *x = arg;
    uint64_t pos, run;

    if (x->extent.len > fl_tar_body_left(&x->tar))
        return fl_error_format(err, x->tar.pos, "a part of a file stands where it does not belong");
    while ((run = fl_tar_take_body(&x->tar, x->extent.len, &pos)) > 0) {
        if (copy_extent(x, pos, run, err) < 0)
            return -1;
        x->extent.offset += run;
        x->extent.len -= run;
    }
    return feed(x, err); /* the end of the file is an event */
}

static int end(void *arg, struct fl_error *err)
{
    struct fl_extract *x = arg;

    return fl_tar_finish(&x->tar, err) < 0 ? -1 : fl_dirtimes_settle(x, err);
}

/* What a call says when the work is where `state` says. */
static int answer(struct fl_extract *x, int state, int result)
{
    if (state == FL_WORK_RUNNING)
        return FL_EXTRACT_RUNNING;
    x->failed = result < 0;
    if (result == 0 && x->placing != NULL) {
        fl_placing_free(x->placing);
        x->placing = NULL;
    }
    if (result == 0 && x->is_ending)
        close_layer(x);
    return result < 0 ? -1 : 0;
}

/* Is the work of so many bytes done soon in any case? Into what was empty there is nothing to be removed. To hand it to
 * the other thread would take longer than the work. */
static bool is_quick(const struct fl_extract *x, uint64_t len)
{
    return len <= QUICK && !x->opt.fsync && (x->path.dirs[0].flags & FL_DIR_CLEAN);
}

static int run(struct fl_extract *x, fl_work_function work, bool quick, unsigned wait_ms, struct fl_error *err)
{
    int result = 0, state = FL_WORK_DONE;

    if (quick)
        result = work(x, err);
    else
        state = fl_work_run(&x->work, work, x, wait_ms, &result, err);
    return answer(x, state, result);
}

int fl_extract_feed(struct fl_extract *x, const uint8_t *data, size_t len, unsigned wait_ms, struct fl_error *err)
{
    if (check_usable(x, true, err) < 0 || check_not_placing(x, err) < 0)
        return -1;
    x->input = data;
    x->input_len = len;
    return run(x, feed, is_quick(x, len), wait_ms, err);
}

int fl_extract_feed_extent(struct fl_extract *x, int fd, uint64_t offset, uint64_t len, unsigned wait_ms,
                           struct fl_error *err)
{
    if (check_usable(x, true, err) < 0 || check_not_placing(x, err) < 0)
        return -1;
    x->input = (const uint8_t *)"";
    x->input_len = 0;
    x->extent = (struct fl_extent){fd, offset, len};
    return run(x, feed_extent, is_quick(x, len), wait_ms, err);
}

int fl_extract_end(struct fl_extract *x, unsigned wait_ms, struct fl_error *err)
{
    int result = 0, state;

    if (check_usable(x, true, err) < 0 || check_not_placing(x, err) < 0)
        return -1;
    x->is_ending = true;
    state = fl_work_run(&x->work, end, x, wait_ms, &result, err);
    return answer(x, state, result);
}

int fl_extract_place_begin(struct fl_extract *x, const struct fl_changes *table, const int *roots, uint32_t root_count,
                           const int64_t *clamp, unsigned helpers, struct fl_error *err)
{
    if (check_usable(x, true, err) < 0 || check_not_placing(x, err) < 0)
        return -1;
    x->placing = fl_placing_new(x, table, roots, root_count, clamp, helpers, err);
    return x->placing == NULL ? -1 : 0;
}

static int place(void *arg, struct fl_error *err)
{
    return fl_placing_step(arg, err);
}

int fl_extract_place(struct fl_extract *x, unsigned wait_ms, struct fl_error *err)
{
    int result = 0, state;

    if (check_usable(x, true, err) < 0)
        return -1;
    if (x->placing == NULL)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "there is no table to be placed");
    state = fl_work_run(&x->work, place, x->placing, wait_ms, &result, err);
    return answer(x, state, result);
}

bool fl_extract_is_placing(const struct fl_extract *x)
{
    return x->placing != NULL;
}

int fl_extract_wait(struct fl_extract *x, unsigned wait_ms, struct fl_error *err)
{
    int result = 0, state = fl_work_wait(&x->work, wait_ms, &result, err);

    return answer(x, state, result);
}

void fl_extract_stop(struct fl_extract *x)
{
    if (x->placing != NULL)
        fl_placing_stop(x->placing);
    fl_work_stop(&x->work);
    x->failed = true;
}
