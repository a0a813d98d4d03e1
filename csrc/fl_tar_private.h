/* What fl_tar.c (the state machine) and fl_tar_entry.c (the meaning of one
 * header) share. Nobody else includes this.
 */
#ifndef FL_TAR_PRIVATE_H
#define FL_TAR_PRIVATE_H

#include "fl_tar.h"
#include "fl_ustar.h"

/* pending */
#define PENDING_PAX 1u
#define PENDING_NAME 2u
#define PENDING_LINK 4u

/* What a step did: an event, no more input, an error, or only a change of state. */
#define EVENT 1
#define STARVED 0
#define AGAIN 2

enum state {
    ST_HEADER,
    ST_EXTENDED,  /* body of an extended header                             */
    ST_GNU_MAP,   /* extension blocks of an old GNU sparse map              */
    ST_PAX_MAP,   /* the map at the start of a GNU.sparse 1.0 body          */
    ST_ENTRY,     /* the entry is complete                                  */
    ST_DATA,
    ST_NEXT,      /* the caller is done with the entry                      */
    ST_PADDING,
    ST_ENDED,
    ST_DEAD,
};

/* Where the header in t->block began: it has just been taken. */
static inline int64_t fl_tar_header_at(const struct fl_tar *t)
{
    return t->pos - FL_TAR_BLOCK;
}

static inline uint32_t fl_tar_padding(uint64_t size)
{
    return (uint32_t)(-size & (FL_TAR_BLOCK - 1));
}

/* A number of the header in t->block that must not be negative. */
int fl_tar_positive_field(const struct fl_tar *t, size_t off, size_t width,
                          const char *name, int64_t *ret, struct fl_error *err);

/* Turns the header in t->block and what is pending into t->entry and the next
 * state. Returns AGAIN or -1. */
int fl_tar_begin_entry(struct fl_tar *t, uint8_t type, struct fl_error *err);

/* A sparse map is complete: checks it and goes on to ST_ENTRY. AGAIN or -1. */
int fl_tar_begin_segments(struct fl_tar *t, struct fl_error *err);

#endif
