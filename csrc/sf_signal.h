/* Lets the second signal of a kind end the process, even if the interpreter is stuck in a long call: handlers written
 * in Python run only between two instructions of the interpreter. */
#ifndef SF_SIGNAL_H
#define SF_SIGNAL_H

#include <stdint.h>

/* Ignores the signal for after_ns, as a repetition of the first one. Later the signal has its default action. Works for
 * one signal of the process. 0 or -errno. */
int sf_signal_next_ends(int number, int64_t after_ns);

#endif
