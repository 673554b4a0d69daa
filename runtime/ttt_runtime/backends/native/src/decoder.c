/* What `ttt_runtime.backends.native` calls: the decoder, the heads, and what a draw needs. */
#define _GNU_SOURCE /* syscall */
#include "forward.h"
#include "head.h"
#include "pack.h"
#include "top_k.h"

#define API __attribute__((visibility("default")))

API int ttt_forward(ttt_engine *e, const ttt_model *model, const ttt_call *call)
{
    return forward(e, model, call);
}

API int ttt_choose(ttt_engine *e, const ttt_head *head) { return choose(e, head); }
API int ttt_find_top_k(ttt_engine *e, const ttt_top_k *s) { return find_top_k(e, s); }
API void ttt_sum_up(ttt_engine *e, const ttt_head *head) { sum_up(e, head); }

#ifndef TTT_SOURCES
#define TTT_SOURCES "unknown" /* see compiler.py */
#endif

/* What `library` compares when it loads: a library may outlive its sources. */
API const char *ttt_sources(void) { return TTT_SOURCES; }

/* Sizes of the structures that Python mirrors, in the order of `structures.MIRRORED`; then 0. */
API const int64_t *ttt_structure_sizes(void)
{
    static const int64_t sizes[] = {
        sizeof(ttt_matrix), sizeof(ttt_stored), sizeof(ttt_layer), sizeof(ttt_table),
        sizeof(ttt_model),  sizeof(ttt_call),   sizeof(ttt_top_k), sizeof(ttt_head), 0,
    };
    return sizes;
}

API int ttt_lanes(void) { return LANES; }
API int ttt_scored(void) { return SCORED; }

/* Bytes that a matrix takes in panels. */
API int64_t ttt_packed_bytes(const ttt_matrix *w) { return panel_count(w) * panel_bytes(w); }

API void ttt_pack(ttt_engine *e, const ttt_matrix *w, const ttt_stored *stored, uint8_t *to)
{
    pack(e, w, stored, to);
}

/* Let at most so many members of the team take part from the next job on; at least one does. */
API void ttt_limit(ttt_engine *e, int members)
{
    int size = e->team->size;
    atomic_store(&e->limit, members < 1 ? 1 : members > size ? size : members);
}

/* Members that took part in the last job. */
API int ttt_members(const ttt_engine *e) { return (int)atomic_load(&e->team->called); }

API void ttt_free(ttt_engine *e)
{
    team_dissolve(e->team, e->team->size - 1);
    free(e->scratch);
    free(e->room);
    free(e);
}

/* Return an engine of so many threads (the caller's among them), or NULL. If it adapts, fewer take
 * part while others want the CPUs. */
API ttt_engine *ttt_new(int threads, int adapts)
{
    ttt_engine *e = threads < 1 || threads > MOST_THREADS ? NULL : calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    e->adapts = adapts;
    atomic_init(&e->limit, threads);
    e->scratch = calloc(threads, sizeof *e->scratch);
    e->team = e->scratch == NULL ? NULL : team_new(threads);
    if (e->team != NULL)
        return e;
    free(e->scratch);
    free(e);
    return NULL;
}
