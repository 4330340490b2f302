"""What each of NVFlare's sites runs: it sends back what it got."""

import os

import nvflare.client as flare
from marks import mark

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:  # the run is over
        break
    if model.current_round:
        mark(os.environ["PEER_MARKS"], flare.get_site_name())
    flare.send(flare.FLModel(params=model.params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
