#include "fl_sparse.h"

#include "fl_number.h"

#define FIELD 12u /* bytes of one number of an old GNU map */

void fl_sparse_reset(struct fl_sparse *s)
{
    s->map.len = 0;
    s->half = false;
    s->number = 0;
    s->digits = 0;
    s->counted = false;
    s->expect = 0;
}

void fl_sparse_free(struct fl_sparse *s)
{
    fl_buf_free(&s->map);
    fl_sparse_reset(s);
}

int fl_sparse_add(struct fl_sparse *s, uint64_t number, struct fl_error *err)
{
    struct fl_segment seg = {.pos = number, .len = 0};

    if (s->half) {
        memcpy(s->map.data + s->map.len - sizeof(seg.len), &number, sizeof(seg.len));
    } else if (fl_buf_add(&s->map, &seg, sizeof(seg), NULL, err) < 0) {
        return -1;
    }
    s->half = !s->half;
    return 0;
}

int fl_sparse_add_fields(struct fl_sparse *s, const uint8_t *fields, size_t n,
                         int64_t at, struct fl_error *err)
{
    for (size_t i = 0; i < 2 * n; i++, fields += FIELD) {
        int64_t v;

        if (i % 2 == 0 && fields[0] == '\0')
            return 0;
        if (fl_number_field(fields, FIELD, &v) < 0 || v < 0)
            return fl_error_format(err, at, "malformed number in a sparse map");
        if (fl_sparse_add(s, (uint64_t)v, err) < 0)
            return -1;
    }
    return 0;
}

int fl_sparse_add_list(struct fl_sparse *s, const uint8_t *text, size_t len,
                       int64_t at, struct fl_error *err)
{
    const uint8_t *end = text + len;

    for (;;) {
        const uint8_t *comma = memchr(text, ',', (size_t)(end - text));
        const uint8_t *stop = comma != NULL ? comma : end;
        uint64_t v;

        if (fl_number_decimal(text, (size_t)(stop - text), &v) < 0)
            return fl_error_format(err, at, "malformed number in a sparse map");
        if (fl_sparse_add(s, v, err) < 0)
            return -1;
        if (comma == NULL)
            return 0;
        text = comma + 1;
    }
}

/* The end of one line of a 1.0 map: the number of segments, or a number. */
static int end_line(struct fl_sparse *s, struct fl_error *err)
{
    uint64_t v = s->number;

    s->number = 0;
    s->digits = 0;
    if (!s->counted) {
        s->counted = true;
        s->expect = v * 2; /* v <= INT64_MAX */
        return 0;
    }
    s->expect--;
    return fl_sparse_add(s, v, err);
}

int fl_sparse_add_text(struct fl_sparse *s, const uint8_t *text, size_t len,
                       int64_t at, struct fl_error *err)
{
    for (size_t i = 0; i < len; i++) {
        unsigned d = (unsigned)text[i] - '0';

        if (d <= 9 && s->number <= ((uint64_t)INT64_MAX - d) / 10) {
            s->number = s->number * 10 + d;
            s->digits++;
            continue;
        }
        if (text[i] != '\n' || s->digits == 0)
            return fl_error_format(err, at, "malformed number in a sparse map");
        if (end_line(s, err) < 0)
            return -1;
        if (s->expect == 0)
            return 1;
    }
    return 0;
}

int fl_sparse_check(const struct fl_sparse *s, uint64_t size, uint64_t stored,
                    int64_t at, struct fl_error *err)
{
    uint64_t end = 0, sum = 0;

    if (s->half)
        return fl_error_format(err, at, "sparse map with an odd number of numbers");
    for (size_t i = 0; i < fl_sparse_count(s); i++) {
        const struct fl_segment *seg = fl_sparse_at(s, i);

        if (seg->pos < end)
            return fl_error_format(err, at, "sparse map out of order");
        if (seg->pos > size || seg->len > size - seg->pos)
            return fl_error_format(err, at, "sparse map reaches beyond the file");
        end = seg->pos + seg->len;
        sum += seg->len; /* <= end, because segments do not overlap */
    }
    if (sum != stored)
        return fl_error_format(err, at, "sparse map does not fit the stored bytes");
    return 0;
}
