/* The heads: logits of hidden rows, each row's best, and how sure it is.
 *
 * Each thread looks for the best among the columns that it has just computed, which lie in its own
 * cache still; numpy, on one thread, would read them all from the next one.
 */
#ifndef TTT_HEAD_H
#define TTT_HEAD_H

#include <math.h>

#include "engine.h"

/* The best of a row among the columns of one thread. */
typedef struct {
    float logit;
    int64_t column;
} best;

/* One head, some rows. Mirrored by `structures.Head`. */
typedef struct {
    const ttt_matrix *matrix;
    int64_t rows, forbidden; /* a column that nobody may choose, or -1 */
    float forbidden_logit;
    const float *x;    /* [rows, inputs] */
    float *logits;     /* [rows, outputs] */
    int64_t *columns;  /* [rows], of the best logits; the first of equals */
    float *best;       /* [rows], the best logits */
    float *sums;       /* [rows], of exp(logit - best) */
} ttt_head;

typedef struct {
    ttt_engine *engine;
    const ttt_head *head;
    rounded rounded;
    best *found; /* [members, rows] */
} head_job;

static void columns_of(const ttt_matrix *w, int member, int members, int64_t *first, int64_t *last)
{
    int64_t panels = panel_count(w);
    *first = panels * member / members * PANEL;
    *last = panels * (member + 1) / members * PANEL;
    if (*last > w->outputs)
        *last = w->outputs;
}

static best best_of(const float *logits, int64_t first, int64_t last)
{
    vf peaks = vf_set(-INFINITY);
    int64_t i = first;
    for (; i + LANES <= last; i += LANES)
        peaks = vf_max(peaks, vf_load(logits + i));
    best found = {vf_largest(peaks), first};
    for (; i < last; i++)
        if (logits[i] > found.logit)
            found.logit = logits[i];
    for (i = first; i < last; i++) {
        if (logits[i] == found.logit) {
            found.column = i;
            break;
        }
    }
    return found;
}

static void choose_member(void *argument, int member)
{
    head_job *job = argument;
    const ttt_head *h = job->head;
    const ttt_matrix *w = h->matrix;
    team *t = job->engine->team;
    int64_t blocks = w->inputs / w->block, first, last;
    for (int64_t r = h->rows * member / t->size; r < h->rows * (member + 1) / t->size; r++)
        round_row(w, h->x + r * w->inputs, job->rounded.codes + r * w->inputs,
                  job->rounded.scales + r * blocks, job->rounded.sums + r * blocks);
    team_wait(t);
    product_part(w, &job->rounded, h->rows, STORE, h->logits, w->outputs, member, t->size,
                 &job->engine->scratch[member]);
    columns_of(w, member, t->size, &first, &last);
    for (int64_t r = 0; r < h->rows; r++) {
        float *logits = h->logits + r * w->outputs;
        if (first <= h->forbidden && h->forbidden < last)
            logits[h->forbidden] = h->forbidden_logit;
        job->found[member * h->rows + r] = best_of(logits, first, last);
    }
}

static void lay_out_head(head_job *job, pieces *from)
{
    const ttt_matrix *w = job->head->matrix;
    widest most = {0, 0, 0};
    widen(&most, w);
    take_scratch(job->engine, from, &most, 0, 0);
    job->rounded = take_rounded(from, job->head->rows, w->inputs, w->inputs / w->block);
    job->found = take(from, job->engine->team->size * job->head->rows * sizeof(best));
}

/* Logits and the best of each row. 0, or -1 without memory. */
static int choose(ttt_engine *e, const ttt_head *h)
{
    head_job job = {.engine = e, .head = h};
    pieces count = {NULL, 0};
    lay_out_head(&job, &count);
    if (!grow(e, count.taken))
        return -1;
    pieces real = {e->room, 0};
    lay_out_head(&job, &real);
    team_run(e->team, choose_member, &job);
    for (int64_t r = 0; r < h->rows; r++) {
        best top = job.found[r];
        for (int member = 1; member < e->team->size; member++) {
            const best *other = &job.found[member * h->rows + r];
            if (other->logit > top.logit)
                top = *other;
        }
        h->columns[r] = top.column;
        h->best[r] = top.logit;
    }
    return 0;
}

static float sum_of(const float *logits, int64_t width, float top)
{
    vf total = vf_zero(), shift = vf_set(top);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        total = vf_add(total, vf_exp(vf_sub(vf_load(logits + i), shift)));
    float sum = vf_sum(total);
    for (; i < width; i++)
        sum += expf(logits[i] - top);
    return sum;
}

/* Whole rows to a member, so that a sum does not depend on the number of members. */
static void sum_member(void *argument, int member)
{
    head_job *job = argument;
    const ttt_head *h = job->head;
    int64_t members = job->engine->team->size, width = h->matrix->outputs;
    for (int64_t r = h->rows * member / members; r < h->rows * (member + 1) / members; r++)
        h->sums[r] = sum_of(h->logits + r * width, width, h->best[r]);
}

/* Sums of exp(logit - best) over the logits that `choose` left. */
static void sum_up(ttt_engine *e, const ttt_head *h)
{
    head_job job = {.engine = e, .head = h};
    team_run(e->team, sum_member, &job);
}

#endif
