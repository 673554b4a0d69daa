/* The heads: logits of hidden rows, each row's best, and how sure it is.
 *
 * Each member looks for the best among the columns that it has just computed, which lie in its own
 * cache still; numpy, on one thread, would read them all from the next one.
 */
#ifndef TTT_HEAD_H
#define TTT_HEAD_H

#include <math.h>

#include "engine.h"

/* The best of a row among the columns of one member. */
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

/* Take in the best of the columns from `first` to `last`, in whatever order they come: the first
 * of equals stays. */
static void better_of(best *so_far, const float *logits, int64_t first, int64_t last)
{
    vf peaks = vf_set(-INFINITY);
    int64_t i = first;
    for (; i + LANES <= last; i += LANES)
        peaks = vf_max(peaks, vf_load(logits + i));
    float peak = vf_largest(peaks);
    for (; i < last; i++)
        if (logits[i] > peak)
            peak = logits[i];
    if (peak < so_far->logit || (peak == so_far->logit && first > so_far->column))
        return;
    for (i = first; i < last; i++) {
        if (logits[i] == peak) {
            *so_far = (best){peak, i};
            return;
        }
    }
}

/* The sections: inputs are rounded (a single row every member rounds for itself), then
 * multiplied. */
static int64_t choose_sections(const void *job)
{
    return ((const head_job *)job)->head->rows == 1 ? 1 : 2;
}

static int is_rounding(const head_job *job, int64_t section)
{
    return section == 0 && job->head->rows > 1;
}

static section_size choose_size(const void *argument, int64_t section)
{
    const head_job *job = argument;
    const ttt_head *h = job->head;
    if (is_rounding(job, section))
        return (section_size){h->rows, 1};
    return product_size(h->matrix, h->rows);
}

static void round_head_row(const ttt_head *h, int64_t r, const rounded *to)
{
    const ttt_matrix *w = h->matrix;
    int64_t blocks = w->inputs / w->block;
    round_row(w, h->x + r * w->inputs, to->codes + r * w->inputs, to->scales + r * blocks,
              to->sums + r * blocks);
}

static void choose_run(void *argument, int64_t section, int64_t first, int64_t last, int member)
{
    head_job *job = argument;
    const ttt_head *h = job->head;
    const ttt_matrix *w = h->matrix;
    scratch *own = &job->engine->scratch[member];
    const rounded *a = h->rows == 1 ? &own->private : &job->rounded;
    if (is_rounding(job, section)) {
        for (int64_t r = first; r < last; r++)
            round_head_row(h, r, a);
        return;
    }
    if (begins_section(job->engine, section, own) && h->rows == 1)
        round_head_row(h, 0, a);
    product_panels(w, a, h->rows, STORE, h->logits, w->outputs, first, last, own);
    int64_t begin = first * PANEL, end = last * PANEL < w->outputs ? last * PANEL : w->outputs;
    for (int64_t r = 0; r < h->rows; r++) {
        float *logits = h->logits + r * w->outputs;
        if (begin <= h->forbidden && h->forbidden < end)
            logits[h->forbidden] = h->forbidden_logit;
        better_of(&job->found[member * h->rows + r], logits, begin, end);
    }
}

static const team_work choose_work = {
    .sections = choose_sections, .size = choose_size, .run = choose_run,
};

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
    const ttt_matrix *w = h->matrix;
    head_job job = {.engine = e, .head = h};
    pieces count = {NULL, 0};
    lay_out_head(&job, &count);
    if (!grow(e, count.taken))
        return -1;
    pieces real = {e->room, 0};
    lay_out_head(&job, &real);
    for (int64_t i = 0; i < e->team->size * h->rows; i++)
        job.found[i] = (best){-INFINITY, INT64_MAX};
    double cost = (double)(h->rows * w->inputs) * (double)w->outputs;
    run_job(e, &choose_work, &job, h->rows == 1 ? CHOOSE_ROW : CHOOSE_ROWS, cost);
    for (int64_t r = 0; r < h->rows; r++) {
        best top = job.found[r];
        for (int member = 1; member < e->team->size; member++) {
            const best *other = &job.found[member * h->rows + r];
            if (other->logit > top.logit ||
                (other->logit == top.logit && other->column < top.column))
                top = *other;
        }
        h->columns[r] = top.column < w->outputs ? top.column : 0; /* NaN is never the best */
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

static int64_t sum_sections(const void *job)
{
    (void)job;
    return 1;
}

/* Whole rows to a member, so that a sum does not depend on the number of members. */
static section_size sum_size(const void *job, int64_t section)
{
    (void)section;
    return (section_size){((const head_job *)job)->head->rows, 1};
}

static void sum_run(void *argument, int64_t section, int64_t first, int64_t last, int member)
{
    const ttt_head *h = ((head_job *)argument)->head;
    int64_t width = h->matrix->outputs;
    (void)section, (void)member;
    for (int64_t r = first; r < last; r++)
        h->sums[r] = sum_of(h->logits + r * width, width, h->best[r]);
}

static const team_work sum_work = {.sections = sum_sections, .size = sum_size, .run = sum_run};

/* Sums of exp(logit - best) over the logits that `choose` left. */
static void sum_up(ttt_engine *e, const ttt_head *h)
{
    head_job job = {.engine = e, .head = h};
    if (h->rows == 1) /* nobody else need be woken for it */
        sum_run(&job, 0, 0, 1, 0);
    else
        run_job(e, &sum_work, &job, OTHER, 0);
}

#endif
