/* Entries of a scan in path order, some of which wait: a directory that is left out stays only when something below
 * it does, which shows later. Everything behind it waits with it, so the order is kept.
 *
 * Zero-initialise, fl_hold_free.
 */
#ifndef FL_HOLD_H
#define FL_HOLD_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_entry.h"

struct fl_hold {
    struct fl_buf entries;  /* of struct held                                    */
    struct fl_buf heap;     /* their path_off is relative to it                  */
    struct fl_buf open;     /* u32: numbers of those that are not decided        */
    uint32_t next;          /* number of the first that was not delivered        */
};

/* Takes a copy of the entry and its variable part. waits: it stays only for something below it. */
int fl_hold_add(struct fl_hold *h, const struct fl_entry *e, const uint8_t *heap, bool waits, struct fl_error *err);

/* Nothing more will come. */
void fl_hold_end(struct fl_hold *h);

/* The next entry that stays, valid until the next call of anything here; NULL: none yet. */
const struct fl_entry *fl_hold_take(struct fl_hold *h);

void fl_hold_free(struct fl_hold *h);

#endif
