/* EACH_n(M) is M(0) M(1) ... M(n - 1).
 *
 * Sums that must stay in registers are variables of their own, named by these numbers: compilers
 * keep arrays of vectors in memory, even where every index is known.
 */
#ifndef TTT_EACH_H
#define TTT_EACH_H

#define EACH_1(M) M(0)
#define EACH_2(M) EACH_1(M) M(1)
#define EACH_3(M) EACH_2(M) M(2)
#define EACH_4(M) EACH_3(M) M(3)
#define EACH_5(M) EACH_4(M) M(4)
#define EACH_6(M) EACH_5(M) M(5)
#define EACH_7(M) EACH_6(M) M(6)
#define EACH_8(M) EACH_7(M) M(7)
#define EACH_9(M) EACH_8(M) M(8)
#define EACH_10(M) EACH_9(M) M(9)
#define EACH_11(M) EACH_10(M) M(10)
#define EACH_12(M) EACH_11(M) M(11)

#endif
