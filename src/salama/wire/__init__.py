"""The messages of BOLT 1, 2, 4 and 7 as declarations, and the feature bits of BOLT 9."""

from salama.codec.fields import Malformed as Malformed
from salama.codec.fields import Unencodable as Unencodable
from salama.codec.message import MAX_MESSAGE as MAX_MESSAGE
from salama.codec.message import Message as Message
from salama.codec.message import MessageTooLong as MessageTooLong
from salama.codec.message import TlvStream as TlvStream
from salama.codec.message import UnknownMessage as UnknownMessage
from salama.codec.message import decode_message as decode_message
from salama.wire.closing import *  # noqa: F403
from salama.wire.features import *  # noqa: F403
from salama.wire.interactive_tx import *  # noqa: F403
from salama.wire.opening import *  # noqa: F403
from salama.wire.setup import *  # noqa: F403
from salama.wire.updates import *  # noqa: F403
