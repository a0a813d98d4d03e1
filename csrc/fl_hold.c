#include "fl_hold.h"

enum fate {
    STAYS = 0,
    WAITS = 1,
    GOES = 2,
};

struct held {
    struct fl_entry entry;
    uint8_t fate;
};

void fl_hold_free(struct fl_hold *h)
{
    fl_buf_free(&h->entries);
    fl_buf_free(&h->heap);
    fl_buf_free(&h->open);
}

static struct held *held_at(const struct fl_hold *h, uint32_t i)
{
    return (struct held *)(void *)h->entries.data + i;
}

static uint32_t count(const struct fl_hold *h)
{
    return (uint32_t)(h->entries.len / sizeof(struct held));
}

/* What the coming of `path` says about the directory: all paths below it lie between "dir/" and "dir0". */
static enum fate fate_of(const uint8_t *dir, uint32_t dir_len, const uint8_t *path, uint32_t len, bool waits)
{
    int c = memcmp(dir, path, dir_len < len ? dir_len : len);

    if (c != 0 || len <= dir_len)
        return c < 0 ? GOES : WAITS;
    if (path[dir_len] == '/')
        return waits ? WAITS : STAYS;
    return path[dir_len] > '/' ? GOES : WAITS;
}

static void decide(struct fl_hold *h, const uint8_t *path, uint32_t len, bool waits)
{
    uint32_t *open = (uint32_t *)(void *)h->open.data;
    size_t n = h->open.len / sizeof(*open), kept = 0;

    for (size_t i = 0; i < n; i++) {
        struct held *dir = held_at(h, open[i]);

        dir->fate = (uint8_t)fate_of(h->heap.data + dir->entry.path_off, dir->entry.path_len, path, len, waits);
        if (dir->fate == WAITS)
            open[kept++] = open[i];
    }
    h->open.len = kept * sizeof(*open);
}

int fl_hold_add(struct fl_hold *h, const struct fl_entry *e, const uint8_t *heap, bool waits, struct fl_error *err)
{
    struct held made = {*e, waits ? WAITS : STAYS};
    const uint8_t *path = heap + e->path_off;
    uint32_t number;

    if (h->next == count(h)) {
        h->entries.len = h->heap.len = h->open.len = 0;
        h->next = 0;
    }
    number = count(h);
    if (number == UINT32_MAX)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "too many entries");
    decide(h, path, e->path_len, waits);
    if (fl_buf_add(&h->heap, path, (size_t)e->path_len + e->link_len + e->xattr_len, &made.entry.path_off, err) < 0 ||
        fl_buf_add(&h->entries, &made, sizeof(made), NULL, err) < 0)
        return -1;
    return waits ? fl_buf_add(&h->open, &number, sizeof(number), NULL, err) : 0;
}

void fl_hold_end(struct fl_hold *h)
{
    for (uint32_t i = h->next; i < count(h); i++)
        if (held_at(h, i)->fate == WAITS)
            held_at(h, i)->fate = GOES;
    h->open.len = 0;
}

const struct fl_entry *fl_hold_take(struct fl_hold *h)
{
    while (h->next < count(h)) {
        const struct held *found = held_at(h, h->next);

        if (found->fate == WAITS)
            return NULL;
        h->next++;
        if (found->fate == STAYS)
            return &found->entry;
    }
    return NULL;
}
