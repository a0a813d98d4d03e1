#include "fl_seen.h"

#include <errno.h>
#include <sys/random.h>

#include "fl_sip.h"

#define FIRST_CAP 256u
#define KEEP_CAP 65536u

/* 128 bits of output. */
static void hash_name(const struct fl_seen *t, uint32_t dir, const char *name, size_t len, uint64_t ret[2])
{
    struct fl_sip s = fl_sip_start(t->secret, 0xee);

    fl_sip_name(&s, dir, name, len);
    s.v2 ^= 0xee;
    ret[0] = fl_sip_finish(&s);
    s.v1 ^= 0xdd;
    ret[1] = fl_sip_finish(&s);
}

int fl_seen_init(struct fl_seen *s, struct fl_error *err)
{
    memset(s, 0, sizeof(*s));
    if (getrandom(s->secret, sizeof(s->secret), 0) != sizeof(s->secret))
        return fl_error_os(err, errno, "getrandom", NULL, 0);
    return 0;
}

void fl_seen_free(struct fl_seen *s)
{
    free(s->slots);
    s->slots = NULL;
    s->cap = s->count = 0;
}

void fl_seen_clear(struct fl_seen *s)
{
    if (s->cap > KEEP_CAP)
        fl_seen_free(s);
    else if (s->cap != 0)
        memset(s->slots, 0, s->cap * sizeof(*s->slots));
    s->count = 0;
}

/* The slot with this hash, or the free one where it belongs. */
static struct fl_seen_slot *probe(const struct fl_seen *s, const uint64_t hash[2])
{
    size_t i = (size_t)hash[0] & (s->cap - 1);

    while ((s->slots[i].flags & FL_SEEN_USED) && (s->slots[i].hash[0] != hash[0] || s->slots[i].hash[1] != hash[1]))
        i = (i + 1) & (s->cap - 1);
    return &s->slots[i];
}

struct fl_seen_slot *fl_seen_find(const struct fl_seen *s, uint32_t dir, const char *name, size_t len)
{
    struct fl_seen_slot *slot;
    uint64_t hash[2];

    if (s->count == 0)
        return NULL;
    hash_name(s, dir, name, len, hash);
    slot = probe(s, hash);
    return slot->flags & FL_SEEN_USED ? slot : NULL;
}

static int grow(struct fl_seen *s, struct fl_error *err)
{
    struct fl_seen bigger = *s;

    bigger.cap = s->cap ? s->cap * 2 : FIRST_CAP;
    bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
    if (bigger.slots == NULL)
        return fl_error_memory(err);
    for (size_t i = 0; i < s->cap; i++)
        if (s->slots[i].flags & FL_SEEN_USED)
            *probe(&bigger, s->slots[i].hash) = s->slots[i];
    free(s->slots);
    *s = bigger;
    return 0;
}

struct fl_seen_slot *fl_seen_get(struct fl_seen *s, uint32_t dir, const char *name, size_t len, struct fl_error *err)
{
    struct fl_seen_slot *slot;
    uint64_t hash[2];

    if (s->count * 4 >= s->cap * 3 && grow(s, err) < 0)
        return NULL;
    hash_name(s, dir, name, len, hash);
    slot = probe(s, hash);
    if (!(slot->flags & FL_SEEN_USED)) {
        *slot = (struct fl_seen_slot){{hash[0], hash[1]}, 0, FL_SEEN_USED};
        s->count++;
    }
    return slot;
}
