/* Fuzz target of the tar reader (csrc/fl_tar.h).
 *
 * The input is read as it is and with the checksums of its headers repaired,
 * each time in one piece and in odd pieces; the events must be the same, hold
 * the contract of fl_tar.h, and never take more than the input gives.
 */
#include "fl_tar.h"
#include "fl_ustar.h"
#include "fuzz_common.h"

#define MAX_PAX 65536u

struct reading {
    struct fl_tar tar;
    const struct fl_tar_entry *file; /* a regular file between ENTRY and FILE_END */
    uint64_t file_pos;
    uint64_t stored;                 /* data bytes so far                        */
    uint64_t digest;                 /* FNV-1a over all that was said            */
    bool ended;
};

static void digest(struct reading *r, const void *data, size_t n)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < n; i++)
        r->digest = (r->digest ^ p[i]) * 0x100000001b3u;
}

static void digest_number(struct reading *r, uint64_t v)
{
    digest(r, &v, sizeof(v));
}

static void take_entry(struct reading *r, const struct fl_tar_entry *e, int64_t input_len)
{
    CHECK(r->file == NULL && !r->ended);
    CHECK(e->type >= '0' && e->type <= '6');
    CHECK(e->mode <= 07777 && e->uid != UINT32_MAX && e->gid != UINT32_MAX);
    CHECK(e->mtime_nsec < 1000000000u);
    CHECK(e->rdev_major <= 4095 && e->rdev_minor <= 1048575);
    CHECK(e->path_len <= MAX_PAX && e->link_len <= MAX_PAX);
    CHECK((e->type == '1' || e->type == '2') == (e->link_len != 0));
    CHECK(e->type == FL_TAR_FILE || (e->size == 0 && !e->sparse));
    CHECK(e->size <= INT64_MAX);
    CHECK(e->offset >= 0 && e->offset % 512 == 0 && e->data_offset % 512 == 0);
    CHECK(e->data_offset > e->offset && e->data_offset <= input_len);
    CHECK(e->path_len == 0 || memchr(e->path, '\0', e->path_len) == NULL);
    check_xattrs(e->xattrs, e->xattr_len);
    digest(r, e->path, e->path_len);
    digest(r, e->link, e->link_len);
    digest(r, e->xattrs, e->xattr_len);
    digest_number(r, e->type);
    digest_number(r, e->mode);
    digest_number(r, (uint64_t)e->uid << 32 | e->gid);
    digest_number(r, (uint64_t)e->mtime_sec ^ e->mtime_nsec);
    digest_number(r, e->size);
    digest_number(r, (uint64_t)e->data_offset);
    r->file = e->type == FL_TAR_FILE ? e : NULL;
    r->file_pos = 0;
}

static void take_data(struct reading *r, const struct fl_tar_event *ev,
                      const uint8_t *piece, size_t piece_len)
{
    CHECK(r->file != NULL && ev->entry == r->file);
    CHECK(ev->data_len > 0 && ev->data >= piece && ev->data + ev->data_len <= piece + piece_len);
    CHECK(ev->data_pos >= r->file_pos);
    CHECK(ev->data_len <= r->file->size && ev->data_pos <= r->file->size - ev->data_len);
    for (size_t i = 0; i < ev->data_len; i++) {
        digest_number(r, ev->data_pos + i);
        digest(r, ev->data + i, 1);
    }
    r->file_pos = ev->data_pos + ev->data_len;
    r->stored += ev->data_len;
}

static void take_event(struct reading *r, const struct fl_tar_event *ev,
                       const uint8_t *piece, size_t piece_len, int64_t input_len)
{
    if (ev->kind != FL_TAR_DATA) /* the input's pieces cut data at will */
        digest_number(r, (uint64_t)ev->kind);
    switch (ev->kind) {
    case FL_TAR_ENTRY:
        take_entry(r, ev->entry, input_len);
        break;
    case FL_TAR_DATA:
        take_data(r, ev, piece, piece_len);
        break;
    case FL_TAR_FILE_END:
        CHECK(r->file != NULL && ev->entry == r->file);
        CHECK(r->file->sparse || r->file_pos == r->file->size);
        check_xattrs(ev->entry->xattrs, ev->entry->xattr_len);
        digest(r, ev->entry->path, ev->entry->path_len);
        r->file = NULL;
        break;
    default:
        CHECK(ev->kind == FL_TAR_END && r->file == NULL && !r->ended);
        r->ended = true;
    }
}

/* Reads one piece to its end. False when it was refused. */
static bool read_piece(struct reading *r, const uint8_t *data, size_t len, int64_t input_len)
{
    uint8_t *piece = exact_copy(data, len);
    const uint8_t *p = piece;
    size_t left = len;
    struct fl_tar_event ev;
    struct fl_error err;
    int got;

    while ((got = fl_tar_next(&r->tar, &p, &left, &ev, &err)) > 0)
        take_event(r, &ev, piece, len, input_len);
    if (got < 0) {
        check_error(&err);
        digest_number(r, (uint64_t)err.kind);
        digest(r, err.detail, strlen(err.detail));
    } else {
        CHECK(left == 0);
    }
    free(piece);
    return got == 0;
}

static uint64_t read_all(const uint8_t *data, size_t size, size_t step)
{
    static const struct fl_tar_limits limits = {.max_pax = MAX_PAX};
    struct reading r = {.digest = 0xcbf29ce484222325u};
    struct fl_error err;
    bool good = true;

    fl_tar_init(&r.tar, &limits);
    for (size_t at = 0; at < size && good; at += step)
        good = read_piece(&r, data + at, size - at < step ? size - at : step, (int64_t)size);
    if (good && fl_tar_finish(&r.tar, &err) < 0) {
        check_error(&err);
        digest_number(&r, 99);
    } else if (good) {
        CHECK(r.file == NULL);
    }
    CHECK(r.stored <= size);
    fl_tar_free(&r.tar);
    return r.digest;
}

static void repair_checksums(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + USTAR_BLOCK <= size; at += USTAR_BLOCK) {
        uint8_t *block = data + at;
        char text[8];

        if (memcmp(block + USTAR_MAGIC, "ustar", 5) != 0)
            continue;
        memset(block + USTAR_CHECKSUM, ' ', USTAR_W_ID);
        snprintf(text, sizeof(text), "%06o", fl_ustar_sum(block));
        memcpy(block + USTAR_CHECKSUM, text, 7);
    }
}

static void read_both_ways(const uint8_t *data, size_t size)
{
    size_t step = size > 1 ? 1 + data[size - 1] % 700 : 1;

    CHECK(read_all(data, size, size != 0 ? size : 1) == read_all(data, size, step));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *repaired = exact_copy(data, size);

    read_both_ways(data, size);
    repair_checksums(repaired, size);
    if (size != 0 && memcmp(repaired, data, size) != 0)
        read_both_ways(repaired, size);
    free(repaired);
    return 0;
}
