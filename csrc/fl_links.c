#include "fl_links.h"

void fl_links_init(struct fl_links *l)
{
    memset(l, 0, sizeof(*l));
    pthread_mutex_init(&l->lock, NULL);
}

void fl_links_free(struct fl_links *l)
{
    free(l->slots);
    fl_buf_free(&l->paths);
    pthread_mutex_destroy(&l->lock);
}

static struct fl_link_slot *find_slot(const struct fl_links *l, uint64_t dev, uint64_t ino)
{
    uint64_t hash = (ino ^ (dev << 32) ^ (dev >> 32)) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(hash >> 32) & (l->cap - 1);

    while (l->slots[i].path_off != 0 && (l->slots[i].dev != dev || l->slots[i].ino != ino))
        i = (i + 1) & (l->cap - 1);
    return &l->slots[i];
}

const char *fl_links_find(const struct fl_links *l, uint64_t dev, uint64_t ino)
{
    struct fl_link_slot *slot;

    if (l->cap == 0)
        return NULL;
    slot = find_slot(l, dev, ino);
    return slot->path_off == 0 ? NULL : (const char *)l->paths.data + slot->path_off;
}

static int grow(struct fl_links *l, struct fl_error *err)
{
    struct fl_links bigger = *l;
    size_t i;

    bigger.cap = l->cap ? l->cap * 2 : 64;
    bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
    if (bigger.slots == NULL)
        return fl_error_memory(err);
    for (i = 0; i < l->cap; i++)
        if (l->slots[i].path_off != 0)
            *find_slot(&bigger, l->slots[i].dev, l->slots[i].ino) = l->slots[i];
    free(l->slots);
    l->slots = bigger.slots;
    l->cap = bigger.cap;
    return 0;
}

int fl_links_add(struct fl_links *l, uint64_t dev, uint64_t ino, const char *dir, const char *name,
                 struct fl_error *err)
{
    size_t dir_len = strlen(dir);
    uint64_t off;

    if (l->count * 4 >= l->cap * 3 && grow(l, err) < 0)
        return -1;
    if (l->paths.len == 0 && fl_buf_add(&l->paths, "", 1, NULL, err) < 0) /* offset 0 means free */
        return -1;
    if (fl_buf_add(&l->paths, dir, dir_len, &off, err) < 0 ||
        (dir_len != 0 && fl_buf_add(&l->paths, "/", 1, NULL, err) < 0) ||
        fl_buf_add(&l->paths, name, strlen(name) + 1, NULL, err) < 0)
        return -1;
    *find_slot(l, dev, ino) = (struct fl_link_slot){dev, ino, off};
    l->count++;
    return 0;
}
