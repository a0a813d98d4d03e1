#include "fl_tar_private.h"

void fl_tar_init(struct fl_tar *t, const struct fl_tar_limits *limits)
{
    memset(t, 0, sizeof(*t));
    if (limits != NULL)
        t->limits = *limits;
    if (t->limits.max_pax == 0)
        t->limits.max_pax = FL_TAR_MAX_PAX;
    t->state = ST_HEADER;
}

void fl_tar_free(struct fl_tar *t)
{
    fl_pax_free(&t->pax);
    fl_buf_free(&t->pax_body);
    fl_buf_free(&t->global_body);
    fl_buf_free(&t->long_name);
    fl_buf_free(&t->long_link);
}

/* ---- input ------------------------------------------------------------ */

static void advance(struct fl_tar *t, const uint8_t **buf, size_t *len, size_t n)
{
    *buf += n;
    *len -= n;
    t->pos += (int64_t)n;
}

/* True when `block` is complete; t->have is 0 again then. */
static bool collect_block(struct fl_tar *t, uint8_t *block, const uint8_t **buf,
                          size_t *len)
{
    size_t n = FL_TAR_BLOCK - t->have;

    if (n > *len)
        n = *len;
    if (n != 0)
        memcpy(block + t->have, *buf, n);
    advance(t, buf, len, n);
    t->have += (uint32_t)n;
    if (t->have < FL_TAR_BLOCK)
        return false;
    t->have = 0;
    return true;
}

/* ---- extended headers ------------------------------------------------- */

static struct fl_buf *extended_buf(struct fl_tar *t)
{
    switch (t->extended) {
    case 'x':
        return &t->pax_body;
    case 'L':
        return &t->long_name;
    case 'K':
        return &t->long_link;
    default:
        return &t->global_body;
    }
}

static uint32_t pending_bit(uint8_t type)
{
    return type == 'x' ? PENDING_PAX : type == 'L' ? PENDING_NAME
         : type == 'K' ? PENDING_LINK : 0;
}

static int begin_extended(struct fl_tar *t, uint8_t type, struct fl_error *err)
{
    int64_t size;

    if (fl_tar_positive_field(t, USTAR_SIZE, USTAR_W_SIZE, "size", &size, err) < 0)
        return -1;
    if (t->pending & pending_bit(type))
        return fl_error_format(err, fl_tar_header_at(t), "two extended headers '%c' for one entry", type);
    if (size > t->limits.max_pax) {
        fl_error_set(err, FL_ERR_LIMIT, NULL, 0,
                     "extended header of %lld bytes; the limit is %u",
                     (long long)size, t->limits.max_pax);
        err->offset = fl_tar_header_at(t);
        return -1;
    }
    t->extended = type;
    t->pending |= pending_bit(type);
    t->left = (uint64_t)size;
    t->pad = fl_tar_padding(t->left);
    extended_buf(t)->len = 0;
    t->state = ST_EXTENDED;
    return AGAIN;
}

/* A long name ends at its first NUL, if it has one. */
static void cut_at_nul(struct fl_buf *b)
{
    if (b->len != 0)
        b->len = strnlen((const char *)b->data, b->len);
}

static int finish_extended(struct fl_tar *t, struct fl_error *err)
{
    struct fl_buf *b = extended_buf(t);
    int64_t at = t->pos - (int64_t)b->len;

    t->state = ST_PADDING;
    if (t->extended == 'x')
        return fl_pax_parse(&t->pax, b->data, b->len, at, err);
    if (t->extended == 'g')
        return fl_pax_check(b->data, b->len, at, err);
    cut_at_nul(b);
    return 0;
}

static int step_extended(struct fl_tar *t, const uint8_t **buf, size_t *len,
                         struct fl_error *err)
{
    size_t n = *len < t->left ? *len : (size_t)t->left;

    if (fl_buf_add(extended_buf(t), *buf, n, NULL, err) < 0)
        return -1;
    advance(t, buf, len, n);
    t->left -= n;
    if (t->left != 0)
        return STARVED;
    return finish_extended(t, err) < 0 ? -1 : AGAIN;
}

static void forget_pending(struct fl_tar *t)
{
    if (t->pending & PENDING_PAX)
        fl_pax_reset(&t->pax);
    t->pending = 0;
}

/* ---- steps ------------------------------------------------------------ */

static int end_archive(struct fl_tar *t, struct fl_tar_event *ev,
                       struct fl_error *err)
{
    if (t->pending != 0)
        return fl_error_format(err, fl_tar_header_at(t), "extended header without an entry");
    t->state = ST_ENDED;
    ev->kind = FL_TAR_END;
    ev->entry = NULL;
    return EVENT;
}

/* One zero block ends the archive: readers that want two stop there as well,
 * or disagree about what follows. */
static int step_header(struct fl_tar *t, const uint8_t **buf, size_t *len,
                       struct fl_tar_event *ev, struct fl_error *err)
{
    uint8_t type;

    if (!collect_block(t, t->block, buf, len))
        return STARVED;
    if (fl_ustar_is_zero(t->block))
        return end_archive(t, ev, err);
    if (!fl_ustar_checksum_fits(t->block))
        return fl_error_format(err, fl_tar_header_at(t), "header checksum does not fit");
    type = t->block[USTAR_TYPE];
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K')
        return begin_extended(t, type, err);
    return fl_tar_begin_entry(t, type, err);
}

static int count_map_block(struct fl_tar *t, struct fl_error *err)
{
    t->map_bytes += FL_TAR_BLOCK;
    if (t->map_bytes <= t->limits.max_pax)
        return 0;
    return fl_error_set(err, FL_ERR_LIMIT, t->entry.path, t->entry.path_len,
                        "sparse map of more than %u bytes", t->limits.max_pax);
}

static int step_gnu_map(struct fl_tar *t, const uint8_t **buf, size_t *len,
                        struct fl_error *err)
{
    if (!collect_block(t, t->extra, buf, len))
        return STARVED;
    if (count_map_block(t, err) < 0 ||
        fl_sparse_add_fields(&t->pax.sparse, t->extra, GNU_EXTENSION_SEGMENTS,
                             fl_tar_header_at(t), err) < 0)
        return -1;
    return t->extra[GNU_EXTENSION_MORE] != 0 ? AGAIN : fl_tar_begin_segments(t, err);
}

static int step_pax_map(struct fl_tar *t, const uint8_t **buf, size_t *len,
                        struct fl_error *err)
{
    int r;

    if (t->have == 0 && t->left < FL_TAR_BLOCK)
        return fl_error_format(err, t->pos, "sparse map is cut");
    if (!collect_block(t, t->extra, buf, len))
        return STARVED;
    t->left -= FL_TAR_BLOCK;
    if (count_map_block(t, err) < 0)
        return -1;
    r = fl_sparse_add_text(&t->pax.sparse, t->extra, FL_TAR_BLOCK, fl_tar_header_at(t), err);
    if (r <= 0)
        return r < 0 ? -1 : AGAIN;
    return fl_tar_begin_segments(t, err);
}

static int step_entry(struct fl_tar *t, struct fl_tar_event *ev)
{
    t->entry.data_offset = t->pos;
    t->state = t->entry.type == FL_TAR_FILE ? ST_DATA : ST_NEXT;
    ev->kind = FL_TAR_ENTRY;
    ev->entry = &t->entry;
    return EVENT;
}

/* The place of the next stored byte, and how many belong there in one run. */
static uint64_t next_run(struct fl_tar *t, uint64_t *ret_pos)
{
    const struct fl_segment *seg;

    if (!t->entry.sparse) {
        *ret_pos = t->entry.size - t->left;
        return t->left;
    }
    seg = fl_sparse_at(&t->pax.sparse, t->segment);
    while (t->segment_done == seg->len) { /* the segments add up to t->left > 0 */
        seg = fl_sparse_at(&t->pax.sparse, ++t->segment);
        t->segment_done = 0;
    }
    *ret_pos = seg->pos + t->segment_done;
    return seg->len - t->segment_done;
}

static int step_data(struct fl_tar *t, const uint8_t **buf, size_t *len,
                     struct fl_tar_event *ev)
{
    uint64_t run;

    ev->entry = &t->entry;
    if (t->left == 0) {
        ev->kind = FL_TAR_FILE_END;
        t->state = ST_NEXT;
        return EVENT;
    }
    if (*len == 0)
        return STARVED;
    run = next_run(t, &ev->data_pos);
    ev->kind = FL_TAR_DATA;
    ev->data = *buf;
    ev->data_len = run < *len ? (size_t)run : *len;
    t->left -= ev->data_len;
    t->segment_done += ev->data_len;
    advance(t, buf, len, ev->data_len);
    return EVENT;
}

static int step_next(struct fl_tar *t)
{
    forget_pending(t);
    if (t->entry.sparse)
        fl_sparse_reset(&t->pax.sparse);
    t->state = ST_PADDING;
    return AGAIN;
}

static int step_padding(struct fl_tar *t, const uint8_t **buf, size_t *len)
{
    size_t n = *len < t->pad ? *len : t->pad;

    advance(t, buf, len, n);
    t->pad -= (uint32_t)n;
    if (t->pad != 0)
        return STARVED;
    t->state = ST_HEADER;
    return AGAIN;
}

/* Padding, or anything else, but not without an end. */
static int step_ended(struct fl_tar *t, const uint8_t **buf, size_t *len, struct fl_error *err)
{
    t->trailing += *len;
    if (t->trailing > FL_TAR_MAX_TRAILING)
        return fl_error_format(err, -1, "more than %u MiB follow the end of the archive", FL_TAR_MAX_TRAILING >> 20);
    advance(t, buf, len, *len);
    return STARVED;
}

static int step(struct fl_tar *t, const uint8_t **buf, size_t *len,
                struct fl_tar_event *ev, struct fl_error *err)
{
    switch ((enum state)t->state) {
    case ST_HEADER:
        return step_header(t, buf, len, ev, err);
    case ST_EXTENDED:
        return step_extended(t, buf, len, err);
    case ST_GNU_MAP:
        return step_gnu_map(t, buf, len, err);
    case ST_PAX_MAP:
        return step_pax_map(t, buf, len, err);
    case ST_ENTRY:
        return step_entry(t, ev);
    case ST_DATA:
        return step_data(t, buf, len, ev);
    case ST_NEXT:
        return step_next(t);
    case ST_PADDING:
        return step_padding(t, buf, len);
    case ST_ENDED:
        return step_ended(t, buf, len, err);
    case ST_DEAD:
        break;
    }
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "tar reader used after an error");
}

int fl_tar_next(struct fl_tar *t, const uint8_t **buf, size_t *len,
                struct fl_tar_event *ev, struct fl_error *err)
{
    int r;

    do {
        r = step(t, buf, len, ev, err);
    } while (r == AGAIN);
    if (r < 0)
        t->state = ST_DEAD;
    return r;
}

uint64_t fl_tar_body_left(const struct fl_tar *t)
{
    return t->state == ST_DATA ? t->left : 0;
}

uint64_t fl_tar_take_body(struct fl_tar *t, uint64_t len, uint64_t *ret_pos)
{
    uint64_t run;

    if (len == 0 || fl_tar_body_left(t) == 0)
        return 0;
    run = next_run(t, ret_pos);
    if (run > len)
        run = len;
    t->left -= run;
    t->segment_done += run;
    t->pos += (int64_t)run;
    return run;
}

int fl_tar_finish(const struct fl_tar *t, struct fl_error *err)
{
    bool is_between = t->state == ST_PADDING || (t->state == ST_HEADER && t->have == 0);

    if (t->state == ST_ENDED || (is_between && t->pending == 0))
        return 0;
    if (is_between)
        return fl_error_format(err, t->pos, "archive ends after an extended header");
    if (t->state == ST_HEADER)
        return fl_error_format(err, t->pos, "archive is cut inside a header");
    fl_error_format(err, t->pos, "archive is cut inside an entry");
    if (t->state != ST_EXTENDED)
        fl_error_path(err, t->entry.path, t->entry.path_len);
    return -1;
}
