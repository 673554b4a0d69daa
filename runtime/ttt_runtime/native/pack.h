/* From the layouts of a bundle's graphs to panels (see product.h). */
#ifndef TTT_PACK_H
#define TTT_PACK_H

#include "product.h"

/* Where a graph keeps a matrix. Mirrored by `library.Stored`. */
typedef struct {
    const uint8_t *codes; /* by_rows: int8 [inputs, outputs]; else [outputs, blocks, bytes] */
    const float *scales;  /* by_rows: [outputs]; else [outputs, blocks] */
    const uint8_t *zeros; /* [outputs, bytes], or NULL */
    int64_t by_rows;
} ttt_stored;

static int zero_point(const ttt_matrix *w, const ttt_stored *from, int64_t output, int64_t b)
{
    int64_t blocks = w->inputs / w->block;
    if (w->bits == 8)
        return from->zeros[output * blocks + b];
    uint8_t pair = from->zeros[output * ((blocks + 1) / 2) + b / 2];
    return b % 2 ? pair >> 4 : pair & 15;
}

/* Eight inputs of 4 bits, two to a byte: the first four become low halves, the others high. */
static void pack_halves(const uint8_t *from, uint8_t *to)
{
    for (int j = 0; j < 4; j++) {
        int low = from[j / 2] >> (j % 2 * 4) & 15, high = from[2 + j / 2] >> (j % 2 * 4) & 15;
        to[j] = (uint8_t)(low | high << 4);
    }
}

/* The output that lane `lane` of a panel's 2 x LANES holds. */
static int64_t output_of(const ttt_matrix *w, int64_t panel, int lane)
{
    if (!w->gated)
        return panel * PANEL + lane;
    return panel * LANES + lane % LANES + lane / LANES * (w->outputs / 2);
}

static void pack_lane(const ttt_matrix *w, const ttt_stored *from, int64_t output, uint8_t *lane,
                      int64_t b)
{
    int64_t pair = 2 * VECTOR_BYTES;
    if (from->by_rows) {
        for (int64_t k = 0; k < w->block; k++)
            lane[k / 4 * pair + k % 4] = from->codes[k * w->outputs + output] ^ 0x80;
        return;
    }
    int64_t bytes = w->block * w->bits / 8;
    const uint8_t *codes = from->codes + (output * (w->inputs / w->block) + b) * bytes;
    for (int64_t i = 0; i < bytes; i += 4, lane += pair) {
        if (w->bits == 4)
            pack_halves(codes + i, lane);
        else
            memcpy(lane, codes + i, 4);
    }
}

static void pack_panel(const ttt_matrix *w, const ttt_stored *from, int64_t panel, uint8_t *to)
{
    int64_t blocks = w->inputs / w->block;
    for (int64_t b = 0; b < blocks; b++, to += block_stride(w)) {
        float *scales = (float *)(to + block_bytes(w));
        memset(to, 0, block_stride(w)); /* lanes that only fill up */
        for (int lane = 0; lane < PANEL; lane++) {
            int64_t output = output_of(w, panel, lane);
            if (output >= w->outputs)
                break;
            pack_lane(w, from, output, to + 4 * lane, b);
            scales[lane] = from->scales[from->by_rows ? output : output * blocks + b];
            if (w->has_zeros)
                scales[PANEL + lane] = scales[lane] * zero_point(w, from, output, b);
        }
    }
}

#endif
