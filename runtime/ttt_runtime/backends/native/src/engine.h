/* A team with room for what its jobs need, made once and grown where a job needs more. */
#ifndef TTT_ENGINE_H
#define TTT_ENGINE_H

#include "product.h"

#define ALIGNED 64

typedef struct {
    team *team;
    scratch *scratch; /* of each member */
    uint8_t *room;
    int64_t room_bytes;
} ttt_engine;

/* Hands out pieces of one buffer; without a buffer it only counts. */
typedef struct {
    uint8_t *at;
    int64_t taken;
} pieces;

static void *take(pieces *from, int64_t bytes)
{
    void *piece = from->at == NULL ? NULL : from->at + from->taken;
    from->taken += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return piece;
}

static rounded take_rounded(pieces *from, int64_t rows, int64_t inputs, int64_t blocks)
{
    rounded r;
    r.codes = take(from, rows * inputs);
    r.scales = take(from, rows * blocks * 4);
    r.sums = take(from, rows * blocks * 4);
    return r;
}

/* The most that any of some matrices asks for. */
typedef struct {
    int64_t inputs, blocks, block_bytes;
} widest;

static void widen(widest *most, const ttt_matrix *w)
{
    int64_t blocks = w->inputs / w->block, bytes = w->bits == 4 ? w->block * PANEL : 0;
    if (w->inputs > most->inputs)
        most->inputs = w->inputs;
    if (blocks > most->blocks)
        most->blocks = blocks;
    if (bytes > most->block_bytes)
        most->block_bytes = bytes;
}

static void take_scratch(ttt_engine *e, pieces *from, const widest *most, int64_t stride,
                         int64_t row)
{
    for (int i = 0; i < e->team->size; i++) {
        scratch *own = &e->scratch[i];
        own->sums = take(from, ROW_GROUP * PANEL * sizeof(float));
        own->codes = take(from, most->block_bytes);
        own->scores = take(from, SEEN_ROWS * stride * 4);
        own->row = take(from, row * 4);
        own->private = take_rounded(from, 1, most->inputs, most->blocks);
    }
}

/* Make room; 0 if there is no memory. */
static int grow(ttt_engine *e, int64_t bytes)
{
    if (bytes <= e->room_bytes)
        return 1;
    free(e->room);
    e->room_bytes = (bytes + 4095) / 4096 * 4096;
    e->room = aligned_alloc(4096, e->room_bytes);
    if (e->room == NULL)
        e->room_bytes = 0;
    return e->room != NULL;
}

#endif
