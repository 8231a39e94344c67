/* The two loops over all hosts of one decision; `kernel.py` says what they stand in for, and tests hold them equal to it.
 *
 * Only +, -, *, /, max, abs and square root, in the order in which scores.py writes them, and compiled with contraction
 * off: IEEE 754 then gives the same bits as numpy does. */

#include <math.h>
#include <stdint.h>

#define STEPS 1048576.0 /* parts.SCORE_STEPS */

enum { SPREAD, PACK, BALANCED, STRANDING, CONTENTION }; /* kernel.TERMS */

typedef struct {
    const int64_t *available;
    const int64_t *shared; /* 1 where `taken` counts on the host; NULL = nowhere */
    int64_t taken;
    int64_t needed;
    int64_t code; /* of the filter, parts.CODES */
} need_t;

typedef struct {
    int64_t kind;
    double share;
    double *values;
} term_t;

typedef struct {
    const double *cpu_share, *memory_share, *cpu_unit, *memory_unit, *over, *var, *tie;
    double mvcpus, memory_mib, mean, var_more; /* what the VM adds; mean in cores, variance in cores^2 */
    const need_t *needs;
    const term_t *terms;
    int64_t n_needs, n_terms;
    uint8_t *verdict;
    double *total, *key;
} room_t;

/* Filters about room, scores and the key of `count` rows: those listed, or the first ones where `rows` is NULL. */
void lq_room(const room_t *room, const int64_t *rows, int64_t count)
{
    for (int64_t at = 0; at < count; at++) {
        const int64_t row = rows ? rows[at] : at;
        uint8_t verdict = 0;
        for (int64_t i = 0; i < room->n_needs; i++) {
            const need_t *need = &room->needs[i];
            const int64_t taken = need->shared ? need->taken * need->shared[row] : 0;
            if (need->available[row] - taken < need->needed && need->code > verdict)
                verdict = (uint8_t)need->code;
        }
        room->verdict[row] = verdict;
        const double cpu = room->cpu_share[row] + room->mvcpus * room->cpu_unit[row];
        const double memory = room->memory_share[row] + room->memory_mib * room->memory_unit[row];
        double total = 0.0;
        for (int64_t i = 0; i < room->n_terms; i++) {
            const term_t *term = &room->terms[i];
            double value = 0.0, over;
            switch (term->kind) {
            case SPREAD: value = 1.0 - (cpu + memory) * 0.5; break;
            case PACK: value = (cpu + memory) * 0.5; break;
            case BALANCED: value = 1.0 - (cpu > memory ? cpu : memory); break;
            case STRANDING: value = 1.0 - fabs(cpu - memory); break;
            case CONTENTION:
                over = room->over[row] + room->mean;
                value = 2.0 / (2.0 + (sqrt((room->var[row] + room->var_more) + over * over) + over));
                break;
            }
            term->values[row] = value;
            total = i ? total + value * term->share : value * term->share;
        }
        room->total[row] = total;
        room->key[row] = floor(total * STEPS) + room->tie[row];
    }
}

/* Puts the parts of a class together: into `verdict` the highest code of each row, into `counts` how many rows have each
 * code, into `first` per code the row that comes first by tie breaker, and into `best` the rows that fit with the three
 * highest keys. -1 = none. */
void lq_judge(int64_t n, const uint8_t *facts, const uint8_t *room, const double *key, const double *tie,
              int64_t n_groups, const uint8_t *const *failing, const uint8_t *group_codes, int64_t n_codes,
              uint8_t *verdict, int64_t *counts, int64_t *first, int64_t *best)
{
    int64_t counted[4][256]; /* most rows have the same few codes: one counter each would wait for itself */
    for (int64_t code = 0; code < n_codes; code++)
        counted[0][code] = counted[1][code] = counted[2][code] = counted[3][code] = 0, first[code] = -1;
    best[0] = best[1] = best[2] = -1;
    for (int64_t row = 0; row < n; row++)
        verdict[row] = facts[row] > room[row] ? facts[row] : room[row];
    for (int64_t group = 0; group < n_groups; group++) {
        const uint8_t *fails = failing[group], code = group_codes[group];
        for (int64_t row = 0; row < n; row++) {
            const uint8_t refused = fails[row] ? code : 0;
            verdict[row] = refused > verdict[row] ? refused : verdict[row];
        }
    }
    for (int64_t row = 0; row < n; row++) {
        const uint8_t code = verdict[row];
        counted[row & 3][code]++;
        if (code) {
            if (first[code] < 0 || tie[row] < tie[first[code]])
                first[code] = row;
        } else if (best[2] < 0 || key[row] > key[best[2]]) {
            int64_t at = 2;
            for (; at > 0 && (best[at - 1] < 0 || key[row] > key[best[at - 1]]); at--)
                best[at] = best[at - 1];
            best[at] = row;
        }
    }
    for (int64_t code = 0; code < n_codes; code++)
        counts[code] = counted[0][code] + counted[1][code] + counted[2][code] + counted[3][code];
}
