/* What is known about names in directories: a hash table from (directory
 * number, name) to a small record.
 *
 * Names are not stored: the key is their SipHash of 128 bits under a random
 * secret, so names chosen by an attacker neither collide nor cluster.
 * Records are never removed, only emptied. Zero-initialise, fl_seen_init,
 * fl_seen_free; fl_seen_clear empties the table and gives big memory back.
 */
#ifndef FL_SEEN_H
#define FL_SEEN_H

#include "fl_buf.h"

#define FL_SEEN_MADE 1u   /* something that is no directory, made by this layer   */
#define FL_SEEN_LEFT 4u   /* a device of this layer that could not be made        */
#define FL_SEEN_USED 2u   /* private: the slot is taken                           */

struct fl_seen_slot {
    uint64_t hash[2];
    uint32_t dir;   /* number of the directory of this name, 0 = none            */
    uint32_t flags;
};

struct fl_seen {
    uint64_t secret[2];
    struct fl_seen_slot *slots;
    size_t cap;     /* a power of two, or 0 */
    size_t count;
};

int fl_seen_init(struct fl_seen *s, struct fl_error *err);
void fl_seen_free(struct fl_seen *s);
void fl_seen_clear(struct fl_seen *s);

/* NULL when nothing is known. Slots are valid until the next fl_seen_get. */
struct fl_seen_slot *fl_seen_find(const struct fl_seen *s, uint32_t dir,
                                  const char *name, size_t len);

/* Finds or adds; NULL with err filled. */
struct fl_seen_slot *fl_seen_get(struct fl_seen *s, uint32_t dir,
                                 const char *name, size_t len,
                                 struct fl_error *err);

#endif
