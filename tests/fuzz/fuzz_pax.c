/* Fuzz target of the PAX parser (csrc/fl_pax.h): the input is the body of an
 * extended header. What is parsed must be well formed, point into the body,
 * and be the same when the parser is used again.
 */
#include "fl_pax.h"
#include "fuzz_common.h"

static bool within(struct fl_slice s, const uint8_t *body, size_t len)
{
    return s.data >= body && s.data <= body + len && s.len <= (size_t)(body + len - s.data);
}

static void check_name(const struct fl_pax *p, uint32_t bit, struct fl_slice s,
                       const uint8_t *body, size_t len)
{
    if (!(p->set & bit))
        return;
    CHECK(within(s, body, len) && s.len > 0);
    CHECK(memchr(s.data, '\0', s.len) == NULL);
}

static void check_parsed(const struct fl_pax *p, const uint8_t *body, size_t len)
{
    check_name(p, FL_PAX_PATH, p->path, body, len);
    check_name(p, FL_PAX_LINKPATH, p->linkpath, body, len);
    check_name(p, FL_PAX_SPARSE_NAME, p->sparse_name, body, len);
    CHECK(!(p->set & FL_PAX_SIZE) || p->size <= INT64_MAX);
    CHECK(!(p->set & FL_PAX_UID) || p->uid <= INT64_MAX);
    CHECK(!(p->set & FL_PAX_MTIME) || p->mtime_nsec < 1000000000u);
    CHECK(!(p->set & FL_PAX_SPARSE_MAP) || !(p->set & FL_PAX_SPARSE_PAIRS));
    CHECK(p->sparse.map.len / sizeof(struct fl_segment) <= len);
    CHECK(p->xattrs.len <= len);
    check_xattrs(p->xattrs.data, p->xattrs.len);
}

/* A map that passes the check is ordered, inside the file and complete. */
static void check_map(const struct fl_pax *p)
{
    struct fl_error err;
    uint64_t stored = 0, end = 0;

    for (size_t i = 0; i < fl_sparse_count(&p->sparse); i++)
        stored += fl_sparse_at(&p->sparse, i)->len;
    if (fl_sparse_check(&p->sparse, INT64_MAX, stored, 0, &err) < 0) {
        check_error(&err);
        return;
    }
    for (size_t i = 0; i < fl_sparse_count(&p->sparse); i++) {
        CHECK(fl_sparse_at(&p->sparse, i)->pos >= end);
        end = fl_sparse_at(&p->sparse, i)->pos + fl_sparse_at(&p->sparse, i)->len;
        CHECK(end <= INT64_MAX);
    }
}

static void parse_text_map(const uint8_t *text, size_t len)
{
    struct fl_sparse map = {0};
    struct fl_error err;
    int r = fl_sparse_add_text(&map, text, len, 0, &err);

    if (r < 0)
        check_error(&err);
    CHECK(fl_sparse_count(&map) <= len);
    CHECK(r <= 0 || !map.half);
    fl_sparse_free(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *body = exact_copy(data, size);
    struct fl_pax p = {0};
    struct fl_error err;
    int parsed = fl_pax_parse(&p, body, size, 0, &err);

    if (parsed < 0) {
        check_error(&err);
    } else {
        uint32_t set = p.set;
        size_t xattr_len = p.xattrs.len;

        check_parsed(&p, body, size);
        check_map(&p);
        CHECK(fl_pax_check(body, size, 0, &err) == 0);
        fl_pax_reset(&p);
        CHECK(fl_pax_parse(&p, body, size, 0, &err) == 0);
        CHECK(p.set == set && p.xattrs.len == xattr_len);
    }
    fl_pax_free(&p);
    parse_text_map(body, size);
    free(body);
    return 0;
}
