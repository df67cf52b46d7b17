"""What went wrong, sorted by what the caller must do.

::

    PressroomError
    ├── UsageError            say it to the user, exit 2: a wrong word, a missing service, a bad setting
    ├── RecordRejected        dead-letter this one record and go on
    │   ├── DecodeError       the bytes are not what the topic's schema says
    │   └── ReplyRejected     the model's replies never fitted the schema
    ├── TransactionAborted    nothing of it is visible: keep the work and commit it again
    ├── OutcomeUnknown        the producer was replaced: read the committed offsets and go on from there
    ├── RetryLater            a service is away: wait and try again
    └── Stop                  leave; going on would do harm
        ├── Fenced            another instance with the same transactional id took over
        ├── Refused           Kafka refuses a right that this client needs
        └── BudgetSpent       what may be spent is spent; the rest stays unread
"""


class PressroomError(Exception):
    """Base of every error Pressroom raises on purpose. Its message is one clear line."""


class UsageError(PressroomError):
    """Wrong use, or something the user must start or set first. Exit status 2."""


class RecordRejected(PressroomError):
    """This record can't be processed, now or later; it belongs to the dead letters."""


class DecodeError(RecordRejected):
    """The bytes can't be read as the record that the topic declares."""


class ReplyRejected(RecordRejected):
    """The model answered, but no reply fitted the output's schema."""


class TransactionAborted(PressroomError):
    """The transaction was aborted as a whole. The finished work may be committed again."""


class OutcomeUnknown(PressroomError):
    """A commit or abort had no definite answer and the producer was replaced.

    By the time this is raised the new producer is initialised, so the committed offsets tell
    what became of the transaction.
    """


class RetryLater(PressroomError):
    """A service (a broker, the model endpoint) can't answer at the moment."""


class Stop(PressroomError):
    """The worker must leave: what is wrong concerns every record, not this one."""


class Fenced(Stop):
    """Another producer with the same transactional id took over; this one must not go on."""


class Refused(Stop):
    """Kafka refuses a right on a topic, a group or a transactional id."""


class BudgetSpent(Stop):
    """The run's budget is spent: no new call is made, and what was not read stays unread."""
