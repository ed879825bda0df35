/* Waiting on a word that other processes change.
 *
 * The waiter has read `expected` from the word. If the word differs by the time that the wait begins, it does not
 * wait: this is what makes a wake between the read and the wait impossible to miss. A return promises nothing; the
 * caller reads the word again. */
#ifndef SF_WAIT_H
#define SF_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

struct sf_wait_ops {
    /* 0: woken, or the word has another value. -ETIMEDOUT, -EINTR: a signal. -EFAULT: the page is gone. */
    int (*wait)(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns);
    /* Wakes every waiter on the word, in this process and in others. */
    void (*wake)(_Atomic uint32_t *word);
    const char *name;
};

extern const struct sf_wait_ops sf_wait_poll; /* sleeps and looks, from 50 µs up to 50 ms apart; works everywhere */
#ifdef __linux__
extern const struct sf_wait_ops sf_wait_futex;
#endif

/* The implementation in use. Tests set their own. */
extern const struct sf_wait_ops *sf_wait_ops;

static inline int
sf_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    return sf_wait_ops->wait(word, expected, timeout_ns);
}

static inline void
sf_wake(_Atomic uint32_t *word)
{
    sf_wait_ops->wake(word);
}

#endif
