"""Are the awaited runs there? One poll for everybody who waits for them in this triggerer.

::

    PaiRunSensor ──defers──▶ PaiRunTrigger      asset watcher ──▶ PaiRunEventTrigger
                                     │ a Question and a Subscription │
                                     ▼                               ▼
         RunPoller: one for a connection, workspace and labels, in a task of its own
             │ each interval: the newest page of ListRuns
             ▼
           Listing: the newest runs, and how many lie further back (TotalCount less those)
             │
             ├─ new or changed runs match a question ─▶ it is due
             ├─ TotalCount says that something changed further back, or PAI
             │  sends no TotalCount ─▶ questions that the page does not show are doubted
             ▼
           due and doubted questions: pages are read back while that costs fewer requests
           than asking each question exactly; the rest is asked
             │
             ▼
           Updates in the queue of each Subscription ─▶ RunCondition.met_by(runs) ─▶ the event

The concepts:

- **condition** (``condition.py``): what ends a wait; the same object decides in a worker (``sensor.py``) and
  in the triggerer (``trigger.py``).
- **handover** (``handover.py``): what the sensor passes to its trigger, and whether the task may end there.
- **question** and **subscription** (``questions.py``, ``run_questions.py``): a query, sent to PAI once for
  all its subscribers, and the queue of one subscriber.
- **poller** (``poller.py``, ``run_poller.py``): the task that polls; **interval**: the shortest that a
  subscriber wants.
- **reading back** (``listing.py``): pages that are read one after another, over several intervals if need be.
- **listing** (``listing.py``): what the pages showed, kept from poll to poll, at most 5,000 runs.
- **exact query**: ListRuns with all filters of one question.
- **rate limit** (``rate_limit.py``): requests in any 3 seconds, in a lane for polls and one for the rest.
- **client** (``client.py``): follows its Connection, shared by all pollers of it.
- **announcing** (``announcing.py``): what an asset's watcher has announced, and what a restart means for it.

Waits for a model's version (``registry/``) differ in the condition and the poller alone: a poll reads all
versions of the model.
"""
