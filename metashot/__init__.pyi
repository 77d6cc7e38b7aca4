from metashot.api import (
    Difference as Difference,
)
from metashot.api import (
    Evaluation as Evaluation,
)
from metashot.api import (
    Form as Form,
)
from metashot.api import (
    Manifest as Manifest,
)
from metashot.api import (
    MetashotError as MetashotError,
)
from metashot.api import (
    Method as Method,
)
from metashot.api import (
    Progress as Progress,
)
from metashot.api import (
    SampleSet as SampleSet,
)
from metashot.api import (
    build as build,
)
from metashot.api import (
    compare as compare,
)
from metashot.api import (
    draw_episodes as draw_episodes,
)
from metashot.api import (
    evaluate as evaluate,
)
from metashot.api import (
    load as load,
)
from metashot.api import (
    load_registered as load_registered,
)
from metashot.api import (
    load_samples as load_samples,
)
from metashot.api import (
    make_samples as make_samples,
)
from metashot.api import (
    save as save,
)
from metashot.api import (
    train as train,
)

__version__: str
