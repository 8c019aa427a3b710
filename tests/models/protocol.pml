/* KeyVigil's protocol: one key, its clusters, the incidents of its outages, and every message between them.

   docs/models.md says what this model holds, its bounds and what it leaves out; `make check-model` checks it.
   Each step names in a comment the function of layers/keyvigil/keyvigil (or the state of statemachines/) for which
   it stands. What one transaction writes is one atomic step here. What a transaction only read may be old by the
   time it commits: where that matters (request of a lock, decision of a lockout) reading and committing are two steps, and a
   write to an item sends those who read it before back to reading, as the version in the table does.

   No step leaves the state as it was, and whatever could go on for ever (the world's changes, crashes, silence) has a
   budget. So every run ends, and liveness needs no fairness: a step that stays possible is taken. `make check-model`
   shows that too: the search for a cycle finds none. */

#ifndef CLUSTERS
#define CLUSTERS 2
#endif
#ifndef FLIPS
#define FLIPS 3          /* how often the customer, or our own trouble, changes what probes find */
#endif
#ifndef MISHAPS
#define MISHAPS 1        /* executions killed, functions that die after their work, receivers that fail or stay silent */
#endif
#ifndef REGISTRATIONS
#define REGISTRATIONS 1  /* clusters registered or removed */
#endif
#define INCIDENTS ((FLIPS + 1) / 2)
#define PROBES 3         /* ConfirmationProbes */
#define MOST_FENCES 14   /* requests are kept as bits of a short; an assertion holds that these are enough */

#define LOCK 0
#define UNLOCK 1

/* domain/keys.py KeyStatus, domain/verdicts.py Outcome (and what the customer does), domain/clusters.py ClusterStatus,
   domain/incidents.py IncidentStatus */
mtype:key = { HEALTHY, SUSPECT, UNHEALTHY, RECOVERING };
mtype:verdict = { WORKS, FAILS, UNKNOWN };
mtype:cluster = { ABSENT, PENDING_KEY, ACTIVE, LOCKING, LOCKED, UNLOCKING, LOCK_FAILED, UNLOCK_FAILED };
mtype:incident = { NONE, CONFIRMING, IS_LOCKING, IS_LOCKED, PARTLY_LOCKED, IS_UNLOCKING, RESOLVED };

/* --- the world ---------------------------------------------------------------------------------------------------- */

mtype:verdict truth = WORKS;            /* what a probe finds now */
byte flips = FLIPS;
byte mishaps = MISHAPS;
byte registrations = REGISTRATIONS;

/* --- the table ---------------------------------------------------------------------------------------------------- */

mtype:key key = HEALTHY;
bool confirmed = false;                 /* Health.confirmed */
byte failing = 0;                       /* Health.failing_streak, no further than PROBES */
byte working = PROBES;                  /* Health.healthy_streak, no further than PROBES */
mtype:verdict verdict = WORKS;          /* Key.verdict */
byte open = 0;                          /* Key.open_incident_id, 0 for none */

byte opened = 0;                        /* incidents are numbered from 1 */
mtype:incident incident[INCIDENTS + 1] = NONE;
bool recovered[INCIDENTS + 1];          /* Incident.recovered_at */
bool told[INCIDENTS + 1];               /* Incident.clusters_told */
byte listed[INCIDENTS + 1];             /* Incident.clusters, a bit for each */
bool lockout[INCIDENTS + 1];            /* an execution of the lockout workflow is asked for or at work */
bool recovery[INCIDENTS + 1];           /* the same of the recovery workflow */

mtype:cluster cluster[CLUSTERS] = ABSENT;
byte fence[CLUSTERS];                   /* Cluster.fence; it stays when the cluster is removed: the tombstone */
byte holder[CLUSTERS];                  /* Cluster.locked_by_incident_id, 0 for none */

/* --- on their way: invocations, requests, answers ------------------------------------------------------------------ */

/* Invocations of lock_cluster and unlock_cluster for a cluster and an incident: nothing, invoked, has read. They outlive
   the execution that made them. */
#define NOT_ASKED 0
#define INVOKED 1
#define HAS_READ 2
byte asking[CLUSTERS * 2 * (INCIDENTS + 1)];
#define ASKING(a, c, i) asking[((i) * 2 + (a)) * CLUSTERS + (c)]

/* Every request ever written to the outbox, and every answer ever given: any of them may arrive, late or again, at any
   time, or never. One bit for each fence. */
short lock_requests[CLUSTERS];
short unlock_requests[CLUSTERS];
short done_answers[CLUSTERS];
short failed_answers[CLUSTERS];
#define BIT(n) (1 << (n))

/* --- the receivers: a control plane that follows the contract -------------------------------------------------------- */

byte seen[CLUSTERS];                    /* the highest fence seen */
bool is_locked[CLUSTERS];               /* whether the cluster is locked in fact */

/* The incident whose step did not hear of its answer: who wrote that down died before it woke the step; 0 for none. */
byte unheard[CLUSTERS];

/* --- what is watched, and nothing else reads ------------------------------------------------------------------------ */

byte failed_in_a_row = 0;               /* UNHEALTHY answers in a row, UNKNOWN apart, no further than PROBES */
bool proved[INCIDENTS + 1];             /* as many failed in a row during this incident */
bool wavered[INCIDENTS + 1];            /* the key seemed to recover after the lockout was decided */
bool unproved_lock = false;             /* a lock was asked for without that proof */


/* --- words ------------------------------------------------------------------------------------------------------- */

#define WAITS(c) (cluster[c] == PENDING_KEY)
#define REQUEST_UNDER_WAY(c) (cluster[c] == LOCKING || cluster[c] == UNLOCKING)
/* domain/incidents.py held_by */
#define HELD(i, c) (holder[c] == (i) && cluster[c] != ABSENT && cluster[c] != ACTIVE && !WAITS(c))
#define UNLOCKED_OF(i, c) (HELD(i, c) && cluster[c] != LOCKED)
/* a step of a Map has its answer, or nothing to wait for */
#define ENDED(a, c, i) (ASKING(a, c, i) == NOT_ASKED && unheard[c] != (i) && \
                        !(holder[c] == (i) && cluster[c] == ((a) == LOCK -> LOCKING : UNLOCKING)))
#define NOT_HELD(i, c) (cluster[c] != ABSENT && !WAITS(c) && holder[c] != (i))
#define NOT_LOCKED(c) (cluster[c] != ABSENT && !WAITS(c) && cluster[c] != LOCKED)
#if CLUSTERS == 1
#define HOLDS(i) HELD(i, 0)
#define HOLDS_UNLOCKED(i) UNLOCKED_OF(i, 0)
#define HOLDS_LOCKING(i) (HELD(i, 0) && cluster[0] == LOCKING)
#define SOME_ACTIVE (cluster[0] == ACTIVE)
#define SOME_UNDER_WAY REQUEST_UNDER_WAY(0)
#define SOME_NOT_HELD(i) NOT_HELD(i, 0)
#define SOME_NOT_LOCKED NOT_LOCKED(0)
#define ALL_ENDED(a, i) ENDED(a, 0, i)
#else
#define HOLDS(i) (HELD(i, 0) || HELD(i, 1))
#define HOLDS_UNLOCKED(i) (UNLOCKED_OF(i, 0) || UNLOCKED_OF(i, 1))
#define HOLDS_LOCKING(i) (HELD(i, 0) && cluster[0] == LOCKING || HELD(i, 1) && cluster[1] == LOCKING)
#define SOME_ACTIVE (cluster[0] == ACTIVE || cluster[1] == ACTIVE)
#define SOME_UNDER_WAY (REQUEST_UNDER_WAY(0) || REQUEST_UNDER_WAY(1))
#define SOME_NOT_HELD(i) (NOT_HELD(i, 0) || NOT_HELD(i, 1))
#define SOME_NOT_LOCKED (NOT_LOCKED(0) || NOT_LOCKED(1))
#define ALL_ENDED(a, i) (ENDED(a, 0, i) && ENDED(a, 1, i))
#endif
#define IS_OPEN(i) (incident[i] != NONE && incident[i] != RESOLVED)
/* domain/status_machine.py is_confirmed, and the status: CheckResult.confirmed of use_cases/check_key.py */
#define OUTAGE_CONFIRMED (key == UNHEALTHY && failing >= NEEDED)
/* domain/incidents.py decide_lockout: LOCK */
#define WANTS_LOCK(i) (IS_OPEN(i) && !recovered[i] && open == (i) && OUTAGE_CONFIRMED && verdict == FAILS)

#ifdef BREAK_CONFIRMATION
#define NEEDED 1         /* one failing probe confirms */
#else
#define NEEDED PROBES
#endif

/* adapters/dynamodb_store.py commit: whoever read this cluster before loses the race and reads again
   (use_cases/retrying.py until_committed) */
inline written(c) {
  n = 0;
  do
  :: n < 2 * (INCIDENTS + 1) ->
     if
     :: asking[n * CLUSTERS + c] == HAS_READ -> asking[n * CLUSTERS + c] = INVOKED
     :: else
     fi;
     n++
  :: else -> break
  od;
  n = 0
}

/* --- the customer, and our own trouble ------------------------------------------------------------------------------ */

active proctype World() {
end:
  do
  :: atomic { flips > 0 && truth != WORKS -> flips--; truth = WORKS }
  :: atomic { flips > 0 && truth != FAILS && opened < INCIDENTS -> flips--; truth = FAILS }
  :: atomic { flips > 0 && truth != UNKNOWN -> flips--; truth = UNKNOWN }
  od
}

/* --- functions/check_keys: use_cases/check_key.py CheckKey, whatever triggered it ----------------------------------- */

/* A probe is made only when its verdict would change something. */
#ifdef BREAK_UNKNOWN
#define NEWS_OF_UNKNOWN (truth == UNKNOWN && (key != UNHEALTHY || verdict != FAILS || failing < PROBES))
#else
#define NEWS_OF_UNKNOWN (truth == UNKNOWN && verdict != UNKNOWN)
#endif
#define NEWS (truth == WORKS && (key != HEALTHY || verdict != WORKS) || \
              truth == FAILS && (key != UNHEALTHY || verdict != FAILS || failing < PROBES) || NEWS_OF_UNKNOWN)

/* domain/status_machine.py observe and use_cases/check_key.py _tell, one transaction */
inline take(answer) {
  if
#ifndef BREAK_UNKNOWN
  :: answer == UNKNOWN -> verdict = UNKNOWN
  :: answer == FAILS ->
#else
  :: answer != WORKS ->                                     /* no answer counts as a failure */
#endif
     verdict = FAILS;
     working = 0;
     failing = (failing < PROBES -> failing + 1 : PROBES);
     if
     :: answer == FAILS && failed_in_a_row < PROBES -> failed_in_a_row++
     :: else
     fi;
     if
     :: key == HEALTHY ->                                   /* SUSPECTED: an incident, and its lockout is asked for */
        key = SUSPECT;
        opened++;
        open = opened;
        incident[open] = CONFIRMING;
        lockout[open] = true
     :: key == SUSPECT && failing >= NEEDED ->              /* CONFIRMED */
        key = UNHEALTHY;
        confirmed = true
     :: key == RECOVERING ->                                /* RELAPSED */
        key = (confirmed -> UNHEALTHY : SUSPECT)
     :: else
     fi;
     if
     :: failed_in_a_row == PROBES -> proved[open] = true
     :: else
     fi
  :: answer == WORKS ->
     verdict = WORKS;
     failing = 0;
     failed_in_a_row = 0;
     working = (working < PROBES -> working + 1 : PROBES);
     if
     :: key == SUSPECT || key == UNHEALTHY ->               /* RECOVERY_BEGAN */
        key = RECOVERING;
        wavered[open] = true;
        recovery[open] = recovery[open] || confirmed
     :: key == RECOVERING && working == PROBES ->           /* RECOVERED */
        key = HEALTHY;
        confirmed = false;
        recovered[open] = true;
        if
        :: incident[open] != IS_LOCKING && !told[open] && !HOLDS(open) ->
           incident[open] = RESOLVED;
           open = 0
        :: else
        fi
     :: else
     fi
  fi
}

active proctype CheckKeys() {
  mtype:verdict found;
  byte n;
end:
  do
  :: atomic { NEWS -> found = truth }                       /* adapters/kms_prober.py probe: it answers ... */
     atomic { take(found); found = 0 }                      /* CheckKey._take: ... and is written down, perhaps later */
  :: atomic { key == HEALTHY && WAITS(0) -> cluster[0] = ACTIVE; written(0) }                /* CheckKey._activate */
#if CLUSTERS > 1
  :: atomic { key == HEALTHY && WAITS(1) -> cluster[1] = ACTIVE; written(1) }
#endif
  od
}

/* --- statemachines/cluster_lockout.asl.json ------------------------------------------------------------------------- */

/* The execution is killed, or runs into the end of its probes: what it asked for goes on without it. */
#define KILLED mishaps > 0 -> mishaps--

/* use_cases/settle_lockout.py: _fail for each listed cluster, then _settle */
inline settle_lockout(i) {
  if
  :: incident[i] == IS_LOCKING ->
     c = 0;
     do
     :: c < CLUSTERS ->
        if
#ifndef BREAK_SETTLING
        :: (listed[i] & BIT(c)) && cluster[c] == ACTIVE && key == UNHEALTHY && open == i ->
           cluster[c] = LOCK_FAILED;                        /* it could not be asked for */
           holder[c] = i;
           written(c)
#endif
        :: else
        fi;
        c++
     :: else -> break
     od;
     c = 0
  :: else
  fi;
  if
  :: incident[i] == IS_LOCKING && !HOLDS_LOCKING(i) || incident[i] == PARTLY_LOCKED && !HOLDS_UNLOCKED(i) ->
     told[i] = told[i] || HOLDS(i);
     incident[i] = (HOLDS_UNLOCKED(i) -> PARTLY_LOCKED : IS_LOCKED)
  :: else                                                   /* a lock has time left: reconciling settles later */
  fi
}

proctype Lockout(byte i) {
  mtype:incident before;
  byte plan, c, n;
end:
  do
  :: lockout[i] ->
     /* ConfirmOutage, IsOutageConfirmed, WaitForNextProbe: CheckKeys probes, this looks at what it found */
end_confirming:
     if
     :: atomic { OUTAGE_CONFIRMED && verdict == FAILS && open == i -> goto decide }
     :: atomic { key == HEALTHY || open != i -> goto over }                                      /* OutageRefuted */
     :: atomic { KILLED; goto over }
     fi;
decide:
     /* DecideLockout: use_cases/lock_clusters.py _decide reads ... */
     atomic {
       if
       :: WANTS_LOCK(i) ->
          before = incident[i];
          wavered[i] = false;
          if :: cluster[0] != ABSENT && !WAITS(0) -> plan = plan | BIT(0) :: else fi;
#if CLUSTERS > 1
          if :: cluster[1] != ABSENT && !WAITS(1) -> plan = plan | BIT(1) :: else fi
#endif
       :: !WANTS_LOCK(i) && (!IS_OPEN(i) || recovered[i] || open != i) -> goto over              /* STOP */
       :: else -> goto end_confirming                                                                   /* WAIT */
       fi
     };
     /* ... and commits: the incident's version decides */
     atomic {
       if
       :: incident[i] == before && before != IS_LOCKING -> incident[i] = IS_LOCKING; listed[i] = plan
       :: incident[i] == before && before == IS_LOCKING
       :: incident[i] != before -> plan = 0; before = 0; goto decide
       fi;
       before = 0;
       /* LockClusters: a Map, each of its steps invokes lock_cluster and waits for the answer */
       c = 0;
       do
       :: c < CLUSTERS ->
          if
          :: (plan & BIT(c)) && ASKING(LOCK, c, i) == NOT_ASKED -> ASKING(LOCK, c, i) = INVOKED
          :: else
          fi;
          c++
       :: else -> break
       od;
       c = 0; plan = 0
     };
     if
     :: atomic { ALL_ENDED(LOCK, i) -> settle_lockout(i) }                                        /* SettleLockout */
     :: atomic { KILLED }
     fi;
over:
     atomic { plan = 0; lockout[i] = false }
  od
}

/* --- functions/lock_cluster and unlock_cluster: use_cases/lock_clusters.py RequestLock ------------------------------ */

/* domain/incidents.py is_seen_failing: what is not seen any more is not locked any further */
#ifdef BREAK_BLIND
#define SEEN true
#else
#define SEEN (verdict == FAILS)
#endif

/* _refusal: it reads the cluster, then key and incident, which it does not write */
inline read_request(a, c, i) {
  if
  :: a == LOCK && cluster[c] != ABSENT && !WAITS(c) && !(cluster[c] == LOCKED && holder[c] == i) &&
     incident[i] == IS_LOCKING && open == i && key == UNHEALTHY && SEEN ->
     unproved_lock = unproved_lock || verdict != FAILS;
     ASKING(a, c, i) = HAS_READ
  :: a == UNLOCK && cluster[c] != ABSENT && holder[c] == i && incident[i] == IS_UNLOCKING && key == HEALTHY ->
     ASKING(a, c, i) = HAS_READ
  :: else -> ASKING(a, c, i) = NOT_ASKED                    /* the waiting step is woken at once */
  fi
}

/* _request commits: domain/clusters.py request gives the next fence; the outbox row is written with it */
inline commit_request(a, c, i) {
  fence[c]++;
  assert(fence[c] <= MOST_FENCES);
  holder[c] = i;
  unheard[c] = 0;                                           /* a step that is superseded ends by its own time-out */
  if
  :: a == LOCK ->
     cluster[c] = LOCKING;
     lock_requests[c] = lock_requests[c] | BIT(fence[c]);
     unproved_lock = unproved_lock || !proved[i]
  :: a == UNLOCK ->
     cluster[c] = UNLOCKING;
     unlock_requests[c] = unlock_requests[c] | BIT(fence[c])
  fi;
  written(c)
}

#define REQUEST(a, c, i) \
  :: atomic { ASKING(a, c, i) == INVOKED -> read_request(a, c, i) } \
  :: atomic { ASKING(a, c, i) == HAS_READ -> ASKING(a, c, i) = NOT_ASKED; commit_request(a, c, i) } \
  /* it dies after its work, and Step Functions invokes it again with another token */ \
  :: atomic { ASKING(a, c, i) == HAS_READ && mishaps > 0 -> \
              mishaps--; commit_request(a, c, i); ASKING(a, c, i) = INVOKED } \
  /* it dies before its work as often as it is invoked: LockNotAnswered, UnlockNotAnswered */ \
  :: atomic { ASKING(a, c, i) == INVOKED && mishaps > 0 -> mishaps--; ASKING(a, c, i) = NOT_ASKED }

active proctype RequestLock() {
  byte n;
end:
  do
  REQUEST(LOCK, 0, 1)
  REQUEST(UNLOCK, 0, 1)
#if INCIDENTS > 1
  REQUEST(LOCK, 0, 2)
  REQUEST(UNLOCK, 0, 2)
#endif
#if CLUSTERS > 1
  REQUEST(LOCK, 1, 1)
  REQUEST(UNLOCK, 1, 1)
#if INCIDENTS > 1
  REQUEST(LOCK, 1, 2)
  REQUEST(UNLOCK, 1, 2)
#endif
#endif
  od
}

/* --- the control plane, and its answers ----------------------------------------------------------------------------- */

#define ASKED(c, f) ((lock_requests[c] | unlock_requests[c]) & BIT(f))
#define WAS_DONE(c, f) (done_answers[c] & BIT(f))
#ifdef BREAK_FENCE
/* what arrives late is done all the same */
#define TAKES(c, f) (!WAS_DONE(c, f))
#else
/* nothing below the highest fence seen; the same one again only if it was not done */
#define TAKES(c, f) (f > seen[c] || f == seen[c] && !WAS_DONE(c, f))
#endif

/* A request arrives, now or late, once or again: use_cases/relay_outbox.py sends it until it is sent */
#define ARRIVES(c, f) \
  :: atomic { ASKED(c, f) && TAKES(c, f) -> \
       if \
       :: seen[c] = f; is_locked[c] = (lock_requests[c] & BIT(f)) != 0; done_answers[c] = done_answers[c] | BIT(f) \
       :: mishaps > 0 && !(failed_answers[c] & BIT(f)) -> \
          mishaps--; seen[c] = f; failed_answers[c] = failed_answers[c] | BIT(f)                /* it could not */ \
       fi }

/* use_cases/record_lock_result.py, domain/clusters.py take_answer: only the newest request can be answered */
#ifdef BREAK_STALE_ANSWER
#define ANSWERED(c, f) WAS_DONE(c, f)    /* whichever request it was that was done */
#else
#define ANSWERED(c, f) (f == fence[c] && WAS_DONE(c, f))
#endif
#ifdef BREAK_ORPHANS
#define FREES_ORPHANS false
#else
#define FREES_ORPHANS true
#endif

/* _record: who locks for an incident that is over has read it before its end; it is taken up again and unlocks */
inline free_orphan(c) {
  if
  :: FREES_ORPHANS && incident[holder[c]] == RESOLVED ->
     incident[holder[c]] = IS_UNLOCKING;
     recovery[holder[c]] = true
  :: else
  fi
}

/* RecordLockResult: the table first, then the step that waits; who dies in between has woken nobody */
inline wake(c) {
  if
  :: unheard[c] = 0
  :: mishaps > 0 -> mishaps--; unheard[c] = holder[c]
  fi
}

inline fail_request(c) {
  if
  :: cluster[c] == LOCKING -> cluster[c] = LOCK_FAILED; written(c); free_orphan(c)
  :: cluster[c] == UNLOCKING -> cluster[c] = UNLOCK_FAILED; written(c)
  fi;
  wake(c)
}

#define ANSWER(c, f) \
  :: atomic { ANSWERED(c, f) && (lock_requests[c] & BIT(f)) && \
              (cluster[c] == LOCKING || cluster[c] == LOCK_FAILED) -> \
              cluster[c] = LOCKED; written(c); free_orphan(c); wake(c) } \
  :: atomic { ANSWERED(c, f) && (unlock_requests[c] & BIT(f)) && \
              (cluster[c] == UNLOCKING || cluster[c] == UNLOCK_FAILED) -> \
              cluster[c] = ACTIVE; wake(c); holder[c] = 0; wavered[open] = true; written(c) } \
  :: atomic { f == fence[c] && (failed_answers[c] & BIT(f)) && REQUEST_UNDER_WAY(c) -> fail_request(c) }

#define MESSAGES(c, f) ARRIVES(c, f) ANSWER(c, f)

proctype ControlPlane(byte c) {
  byte n;
end:
  do
  MESSAGES(c, 1)
  MESSAGES(c, 2)
  MESSAGES(c, 3)
  MESSAGES(c, 4)
  MESSAGES(c, 5)
  MESSAGES(c, 6)
  MESSAGES(c, 7)
  MESSAGES(c, 8)
  /* use_cases/lock_clusters.py FailOverdueLock: silence is failure */
  :: atomic { REQUEST_UNDER_WAY(c) && mishaps > 0 ->
       mishaps--; fail_request(c) }
  od
}

/* --- statemachines/cluster_recovery.asl.json -------------------------------------------------------------------------- */

/* use_cases/unlock_clusters.py SettleRecovery */
inline settle_recovery(i) {
  if
  :: !IS_OPEN(i) || incident[i] == IS_LOCKING
  :: IS_OPEN(i) && incident[i] != IS_LOCKING && key != HEALTHY && open == i ->
     incident[i] = (incident[i] == IS_UNLOCKING -> CONFIRMING : incident[i])                     /* _take_up */
  :: IS_OPEN(i) && incident[i] != IS_LOCKING && !(key != HEALTHY && open == i) && HOLDS(i) ->
     told[i] = told[i] || key == HEALTHY                                                         /* _tell_failure */
  :: IS_OPEN(i) && incident[i] != IS_LOCKING && !(key != HEALTHY && open == i) && !HOLDS(i) ->   /* _end */
     incident[i] = RESOLVED;
     told[i] = false;
     open = (open == i -> 0 : open)
  fi
}

proctype Recovery(byte i) {
  byte c;
end:
  do
  :: recovery[i] ->
     /* DecideRecovery: use_cases/unlock_clusters.py, domain/incidents.py decide_recovery; else ProveRecovery goes on */
end_proving:
     if
     :: atomic { !IS_OPEN(i) || incident[i] != IS_LOCKING && key == UNHEALTHY -> goto over }             /* STOP */
     :: atomic { IS_OPEN(i) && incident[i] != IS_LOCKING && key == HEALTHY ->                            /* UNLOCK */
          incident[i] = IS_UNLOCKING;
          /* UnlockClusters: a Map, each of its steps invokes unlock_cluster and waits for the answer */
          c = 0;
          do
          :: c < CLUSTERS ->
             if
             :: HELD(i, c) && ASKING(UNLOCK, c, i) == NOT_ASKED -> ASKING(UNLOCK, c, i) = INVOKED
             :: else
             fi;
             c++
          :: else -> break
          od;
          c = 0 }
     :: atomic { KILLED; goto over }
     fi;
     if
     :: atomic { ALL_ENDED(UNLOCK, i) -> settle_recovery(i) }                                    /* SettleRecovery */
     :: atomic { KILLED }
     fi;
over:
     recovery[i] = false
  od
}

/* --- functions/plan_sweep: use_cases/reconcile.py, domain/incidents.py decide_mending ------------------------------- */

#define NOBODY_AT_WORK(i) (IS_OPEN(i) && !lockout[i] && !recovery[i])
#ifdef BREAK_LEFT_OUT
#define LEFT_OUT(i) (incident[i] == IS_LOCKED && SOME_ACTIVE)
#else
#define LEFT_OUT(i) (incident[i] == IS_LOCKED && SOME_NOT_HELD(i))
#endif

#define MEND(i) \
  /* WAKE: it waits for nothing, and did not hear of it (domain/incidents.py unheard) */ \
  :: atomic { WAKES && (lockout[i] || recovery[i]) && (incident[i] == IS_LOCKING || incident[i] == IS_UNLOCKING) && \
              !SOME_UNDER_WAY && SOME_UNHEARD(i) -> hear(i) } \
  /* SETTLE_LOCKOUT: its lockout ended without settling; a recovery may be waiting for that */ \
  :: atomic { MENDS_LOCKING(i) && incident[i] == IS_LOCKING && !HOLDS_LOCKING(i) -> settle_lockout(i) } \
  /* START_RECOVERY: its clusters should be unlocked and are not */ \
  :: atomic { MENDS_RECOVERY && NOBODY_AT_WORK(i) && incident[i] != IS_LOCKING && HOLDS(i) && key == HEALTHY -> \
              recovery[i] = true } \
  /* SETTLE_RECOVERY: no cluster is locked for it any more */ \
  :: atomic { NOBODY_AT_WORK(i) && incident[i] != IS_LOCKING && !HOLDS(i) && (key == HEALTHY || open != i) -> \
              settle_recovery(i) } \
  /* SETTLE_LOCKOUT: its last lock was answered after all */ \
  :: atomic { NOBODY_AT_WORK(i) && incident[i] == PARTLY_LOCKED && HOLDS(i) && !HOLDS_UNLOCKED(i) && \
              !(key == HEALTHY) -> settle_lockout(i) } \
  /* START_LOCKOUT: its clusters should be locked and are not */ \
  :: atomic { MENDS_LOCKOUT && NOBODY_AT_WORK(i) && WANTS_LOCK(i) && \
              (incident[i] == CONFIRMING || incident[i] == PARTLY_LOCKED && HOLDS_UNLOCKED(i) || LEFT_OUT(i)) -> \
              lockout[i] = true }

#ifdef BREAK_WAKING
#define WAKES false
#else
#define WAKES true
#endif
#ifdef BREAK_MENDING_LOCKING
#define MENDS_LOCKING(i) NOBODY_AT_WORK(i)
#else
#define MENDS_LOCKING(i) (!lockout[i])
#endif
#ifdef BREAK_MENDING_LOCKOUTS
#define MENDS_LOCKOUT false
#else
#define MENDS_LOCKOUT true
#endif
#ifdef BREAK_MENDING_RECOVERIES
#define MENDS_RECOVERY false
#else
#define MENDS_RECOVERY true
#endif

#if CLUSTERS == 1
#define SOME_UNHEARD(i) (unheard[0] == (i))
#else
#define SOME_UNHEARD(i) (unheard[0] == (i) || unheard[1] == (i))
#endif

inline hear(i) {
  if :: unheard[0] == i -> unheard[0] = 0 :: else fi;
#if CLUSTERS > 1
  if :: unheard[1] == i -> unheard[1] = 0 :: else fi
#endif
}

active proctype Reconcile() {
  byte c, n;
end:
  do
  MEND(1)
#if INCIDENTS > 1
  MEND(2)
#endif
  od
}

/* --- functions/registry_api: use_cases/registry.py Clusters, in one transaction with the key's status --------------- */

#ifdef BREAK_REGISTRATION
#define FIRST_STATUS ACTIVE
#else
#define FIRST_STATUS (key == HEALTHY -> ACTIVE : PENDING_KEY)
#endif

#define REGISTRY(c) \
  :: atomic { registrations > 0 && cluster[c] == ABSENT -> \
              registrations--; cluster[c] = FIRST_STATUS; written(c) }                                   /* register */ \
  :: atomic { registrations > 0 && (cluster[c] == ACTIVE || WAITS(c)) -> \
              registrations--; cluster[c] = ABSENT; holder[c] = 0; written(c) }                           /* delete */ \
  /* update with another `lock`: what the receiver before may still answer is no word of the one now */ \
  :: atomic { registrations > 0 && fence[c] > 0 && (cluster[c] == ACTIVE || WAITS(c) || \
              cluster[c] == LOCK_FAILED || cluster[c] == UNLOCK_FAILED) -> \
              registrations--; fence[c]++; assert(fence[c] <= MOST_FENCES); written(c) }

active proctype Registry() {
  byte n;
end:
  do
  REGISTRY(0)
#if CLUSTERS > 1
  REGISTRY(1)
#endif
  od
}

init {
  byte i = 0;
  atomic {
    cluster[0] = ACTIVE;
    do
    :: i < CLUSTERS -> run ControlPlane(i); i++
    :: else -> break
    od;
    i = 1;
    do
    :: i <= INCIDENTS -> run Lockout(i); run Recovery(i); i++
    :: else -> break
    od;
    i = 0
  }
}

/* --- what must hold -------------------------------------------------------------------------------------------------- */

#define SETTLED(i) ((incident[i] == IS_LOCKED || incident[i] == PARTLY_LOCKED) && !lockout[i])
#define IN_USE_UNDER_OUTAGE(i) (key == UNHEALTHY && open == (i) && SETTLED(i) && !wavered[i] && SOME_ACTIVE)
#define OLDER_WON(c) (cluster[c] == LOCKED && !is_locked[c] || cluster[c] == ACTIVE && is_locked[c])
#define SHUT_OUT(c) (cluster[c] != ABSENT && cluster[c] != ACTIVE)
#if INCIDENTS > 1
#define SOME_IN_USE_UNDER_OUTAGE (IN_USE_UNDER_OUTAGE(1) || IN_USE_UNDER_OUTAGE(2))
#else
#define SOME_IN_USE_UNDER_OUTAGE IN_USE_UNDER_OUTAGE(1)
#endif
#if CLUSTERS > 1
#define SOME_OLDER_WON (OLDER_WON(0) || OLDER_WON(1))
#define SOME_SHUT_OUT (SHUT_OUT(0) || SHUT_OUT(1))
#else
#define SOME_OLDER_WON OLDER_WON(0)
#define SOME_SHUT_OUT SHUT_OUT(0)
#endif

/* No cluster is ACTIVE under a confirmed outage once its locks settled ... */
ltl outage_locks { [] !SOME_IN_USE_UNDER_OUTAGE }
/* ... and none stays so, whatever the key seemed to do while they were made. */
ltl outage_locks_in_the_end { (<> [] (key == UNHEALTHY && verdict == FAILS)) -> (<> [] !SOME_NOT_LOCKED) }
/* No cluster is LOCKED (or waiting, or failed) for ever after a proved recovery. */
ltl recovery_unlocks { (<> [] (key == HEALTHY)) -> (<> [] !SOME_SHUT_OUT) }
/* No older fence wins: what shows LOCKED is locked in fact, what shows ACTIVE is not. */
ltl no_older_fence_wins { [] !SOME_OLDER_WON }
/* No lock is asked for without a confirmed outage. */
ltl no_lock_without_confirmation { [] !unproved_lock }
