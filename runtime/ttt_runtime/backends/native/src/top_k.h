/* What a draw needs of long logits: the largest of them, and the sum of all exponentials. */
#ifndef TTT_SURVEY_H
#define TTT_SURVEY_H

#include <math.h>

#include "engine.h"

#define SURVEYED_PARTS 2
#define CHUNK 4096 /* values whose sum is one float32; sums of chunks are added in float64 */

/* Logits that may come in parts, one behind the other. Mirrored by `structures.Survey`. */
typedef struct {
    const float *parts[SURVEYED_PARTS];
    int64_t widths[SURVEYED_PARTS]; /* 0 where there is no such part */
    int64_t count;                  /* of the largest that are wanted; at most all there are */
    float per_unit;
    int64_t *ids;  /* [count], largest first, of equals the first */
    float *values; /* [count] */
    double *sum;   /* [1], of exp((value - largest) * per_unit) */
} ttt_survey;

typedef struct {
    float *values; /* [count], largest first */
    int64_t *ids;
    int64_t found;
} top;

typedef struct {
    ttt_engine *engine;
    const ttt_survey *survey;
    top *tops;   /* [members] */
    float *sums; /* [chunks] */
} survey_job;

static int64_t chunks_of(const ttt_survey *s, int part)
{
    return (s->widths[part] + CHUNK - 1) / CHUNK;
}

/* Values of chunk `number`, counted through all parts; returns how many. */
static int64_t chunk_at(const ttt_survey *s, int64_t number, const float **values, int64_t *first)
{
    int part = number < chunks_of(s, 0) ? 0 : 1;
    int64_t at = (number - (part ? chunks_of(s, 0) : 0)) * CHUNK, left = s->widths[part] - at;
    *values = s->parts[part] + at;
    *first = at + (part ? s->widths[0] : 0);
    return left < CHUNK ? left : CHUNK;
}

static void enter(top *t, int64_t count, float value, int64_t id)
{
    if (t->found == count && value <= t->values[count - 1])
        return;
    int64_t i = t->found < count ? t->found++ : count - 1;
    for (; i > 0 && t->values[i - 1] < value; i--) {
        t->values[i] = t->values[i - 1];
        t->ids[i] = t->ids[i - 1];
    }
    t->values[i] = value;
    t->ids[i] = id;
}

static void enter_all(top *t, int64_t count, const float *values, int64_t size, int64_t first)
{
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        if (t->found == count && !vf_any_above(vf_load(values + i), vf_set(t->values[count - 1])))
            continue;
        for (int lane = 0; lane < LANES; lane++)
            enter(t, count, values[i + lane], first + i + lane);
    }
    for (; i < size; i++)
        enter(t, count, values[i], first + i);
}

static float sum_of_chunk(const float *values, int64_t size, float largest, float per_unit)
{
    vf total = vf_zero(), shift = vf_set(largest), factor = vf_set(per_unit);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        total = vf_add(total, vf_exp(vf_mul(vf_sub(vf_load(values + i), shift), factor)));
    float sum = vf_sum(total);
    for (; i < size; i++)
        sum += expf((values[i] - largest) * per_unit);
    return sum;
}

static void survey_member(void *argument, int member)
{
    survey_job *job = argument;
    const ttt_survey *s = job->survey;
    team *t = job->engine->team;
    int64_t chunks = chunks_of(s, 0) + chunks_of(s, 1), first, size;
    int64_t begin = chunks * member / t->size, end = chunks * (member + 1) / t->size;
    const float *values;
    top *mine = &job->tops[member];
    mine->found = 0;
    for (int64_t c = begin; c < end; c++) {
        size = chunk_at(s, c, &values, &first);
        enter_all(mine, s->count, values, size, first);
    }
    team_wait(t);
    float largest = -INFINITY;
    for (int m = 0; m < t->size; m++)
        if (job->tops[m].found > 0 && job->tops[m].values[0] > largest)
            largest = job->tops[m].values[0];
    for (int64_t c = begin; c < end; c++) {
        size = chunk_at(s, c, &values, &first);
        job->sums[c] = sum_of_chunk(values, size, largest, s->per_unit);
    }
}

static void lay_out_survey(survey_job *job, pieces *from)
{
    const ttt_survey *s = job->survey;
    int members = job->engine->team->size;
    job->tops = take(from, members * sizeof(top));
    job->sums = take(from, (chunks_of(s, 0) + chunks_of(s, 1)) * sizeof(float));
    for (int m = 0; m < members; m++) {
        float *values = take(from, s->count * sizeof(float));
        int64_t *ids = take(from, s->count * sizeof(int64_t));
        if (job->tops != NULL)
            job->tops[m] = (top){values, ids, 0};
    }
}

/* 0, or -1 without memory. */
static int survey(ttt_engine *e, const ttt_survey *s)
{
    survey_job job = {.engine = e, .survey = s};
    pieces count = {NULL, 0};
    lay_out_survey(&job, &count);
    if (!grow(e, count.taken))
        return -1;
    pieces real = {e->room, 0};
    lay_out_survey(&job, &real);
    team_run(e->team, survey_member, &job);
    top all = {s->values, s->ids, 0};
    for (int m = 0; m < e->team->size; m++)
        for (int64_t i = 0; i < job.tops[m].found; i++)
            enter(&all, s->count, job.tops[m].values[i], job.tops[m].ids[i]);
    *s->sum = 0;
    for (int64_t c = 0; c < chunks_of(s, 0) + chunks_of(s, 1); c++)
        *s->sum += job.sums[c];
    return 0;
}

#endif
