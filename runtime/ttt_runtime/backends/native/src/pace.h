/* How many members take part in a job: as many as make it fast while the machine does other work.
 *
 * Nothing is asked of the system: jobs of one kind are timed. While members sleep in jobs because
 * others have lost their CPU, a smaller team is tried for a moment, and kept if it is faster; a
 * team that is smaller than it may be tries to grow again from time to time. Results do not depend
 * on it.
 */
#ifndef TTT_PACE_H
#define TTT_PACE_H

#include "wait.h"

#define SPELL_NS 16000000 /* what is timed together: a few turns of a scheduler among threads */
#define SPELL_JOBS 3
#define FIRST_HOLD_NS 60000000 /* from one trial to the next, twice as long after each in vain */
#define LAST_HOLD_NS 1000000000
#define WORTH_A_CHANGE 0.95
#define SLEEPY 16 /* a team is tried smaller when it sleeps more than 1/16 of its time */

/* Of one kind of jobs. */
typedef struct {
    int members; /* 0 before the first job */
    int before;  /* during a trial: the size that it is compared with; else 0 */
    int grows;   /* which way the last trial went */
    int64_t hold_ns, hold_until;
    double pace; /* ns for a unit of cost, outside trials */
    /* The spell at hand. */
    int jobs;
    int64_t ns, slept_ns;
    double cost;
} team_pace;

/* Members of the next job, at most `limit`. */
static int pace_members(team_pace *p, int limit)
{
    if (p->members == 0 || p->members > limit) {
        *p = (team_pace){.members = limit, .hold_ns = FIRST_HOLD_NS};
    }
    return p->members;
}

static int pace_step(int members) { return members < 8 ? 1 : members / 4; }

static void pace_try(team_pace *p, int limit, int64_t now)
{
    int sleeps = p->members > 1 && p->slept_ns > p->ns * p->members / SLEEPY;
    int may_grow = p->members < limit;
    if (now < p->hold_until || !(sleeps || may_grow))
        return;
    p->grows = may_grow && !(sleeps && p->grows); /* in turns where both are possible */
    p->before = p->members;
    p->members += p->grows ? pace_step(p->members) : -pace_step(p->members);
    if (p->members > limit)
        p->members = limit;
}

static void pace_judge(team_pace *p, double pace, int64_t now)
{
    if (pace < p->pace * WORTH_A_CHANGE) {
        p->pace = pace;
        p->hold_ns = FIRST_HOLD_NS;
    } else {
        p->members = p->before;
        p->hold_ns = p->hold_ns * 2 < LAST_HOLD_NS ? p->hold_ns * 2 : LAST_HOLD_NS;
    }
    p->before = 0;
    p->hold_until = now + p->hold_ns;
}

/* Take in a job: how long it took, what all members slept of that, and what there was to do. */
static void pace_note(team_pace *p, int limit, int64_t ns, int64_t slept_ns, double cost)
{
    p->jobs++;
    p->ns += ns;
    p->slept_ns += slept_ns;
    p->cost += cost;
    if (p->ns < SPELL_NS || p->jobs < SPELL_JOBS)
        return;
    double pace = (double)p->ns / p->cost;
    int64_t now = now_ns();
    if (p->before != 0) {
        pace_judge(p, pace, now);
    } else {
        p->pace = p->pace == 0 ? pace : (p->pace + pace) / 2;
        pace_try(p, limit, now);
    }
    p->jobs = 0;
    p->ns = p->slept_ns = 0;
    p->cost = 0;
}

#endif
