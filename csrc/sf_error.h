/* Errors beyond errno's own: what is wrong with a control file. Returned negative, as errno's are. */
#ifndef SF_ERROR_H
#define SF_ERROR_H

#define SF_ENOTCONTROL 4001 /* no control file: wrong magic, or the file is not finished */
#define SF_ELAYOUT 4002     /* a control file of another layout version */
#define SF_ECORRUPT 4003    /* sizes, numbers or kinds in it make no sense */
#define SF_EGONE 4004       /* the file was removed, replaced or cut short after it was opened */
#define SF_EFULL 4005       /* the log is full: some rank has applied nothing for a long time */
#define SF_EBUSY 4006       /* another sender has held the log's lock for all the time allowed */
#define SF_EFOREIGN 4007    /* not a regular file of this user with one name: another user may have put it there */

#endif
