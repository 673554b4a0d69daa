/* What a forward begins with: embedding rows, rotary angles and the mask of its rows. */
#ifndef TTT_EMBED_H
#define TTT_EMBED_H

#include "engine.h"

/* One forward. Mirrored by `structures.Call`. */
typedef struct {
    int64_t rows, start, capacity, audio_start;
    const int64_t *ids;       /* [rows] */
    const int64_t *positions; /* [rows], or NULL: start, start + 1, ... */
    const float *embeds;      /* [rows, hidden], or NULL: the table's, in 8 bit */
    float *const *keys, *const *values; /* [layers] */
    float *hidden;            /* [rows, hidden] */
} ttt_call;

/* The embedding table. In 8 bit a row is codes x scale; of other types only the rows are known. */
typedef struct {
    int64_t rows;
    const int8_t *codes; /* [rows, hidden], or NULL */
    const float *scales; /* [rows], or NULL */
} ttt_table;

/* Where the inputs of a forward's rows go. */
typedef struct {
    float *x;       /* [rows, hidden] */
    uint8_t *mask;  /* [rows, mask_stride] */
    int64_t *runs;  /* [rows]: equal for rows of one run of audio ids */
    int64_t mask_stride;
} inputs;

static void embed(const ttt_call *c, const ttt_table *table, int64_t hidden, int64_t row, float *x)
{
    if (c->embeds != NULL) {
        memcpy(x, c->embeds + row * hidden, hidden * sizeof(float));
        return;
    }
    const int8_t *codes = table->codes + c->ids[row] * hidden;
    vf scale = vf_set(table->scales[c->ids[row]]);
    for (int64_t i = 0; i < hidden; i += LANES)
        vf_store(x + i, vf_mul(vf_load_bytes(codes + i), scale));
}

/* Number the runs: as many text ids came before two audio ids of one run; a text id gets a number
 * that is its own. See `ttt_runtime.backends.attention_mask`.
 */
static void number_runs(const ttt_call *c, int64_t *runs)
{
    int64_t texts = 0;
    for (int64_t r = 0; r < c->rows; r++) {
        if (c->ids[r] >= c->audio_start) {
            runs[r] = texts;
        } else {
            texts++;
            runs[r] = -texts;
        }
    }
}

/* Row `row` sees the cache below `start`, what came before it, and its own run. */
static void write_mask(const ttt_call *c, const inputs *to, int64_t row)
{
    uint8_t *mask = to->mask + row * to->mask_stride;
    int64_t seen = c->start + row + 1;
    memset(mask, 1, seen);
    for (int64_t r = row + 1; r < c->rows; r++)
        mask[c->start + r] = to->runs[r] == to->runs[row];
    memset(mask + c->start + c->rows, 0, to->mask_stride - c->start - c->rows);
}

#endif
