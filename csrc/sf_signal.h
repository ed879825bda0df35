/* A signal that was answered once, and ends the process when it comes again later: also where the interpreter, which
 * runs handlers written in Python between two of its own instructions, is stuck in a long call. */
#ifndef SF_SIGNAL_H
#define SF_SIGNAL_H

#include <stdint.h>

/* From now on the signal is overlooked for after_ns, as a copy of the one that was answered; later it has its default
 * action. One signal of the process can be treated so. 0 or -errno. */
int sf_signal_next_ends(int number, int64_t after_ns);

#endif
