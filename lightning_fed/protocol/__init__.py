"""What coordinator and sites say to each other, and when: messages and two state machines without I/O or clock.

A round, as the messages see it (a site's own in the left column)::

    Hello ->            <- Welcome(plan)      who is there, and what was agreed
    Join(layout) ->     <- Joined             the model is the same one
                        <- Model(version)     a global model is ready ...
    Fetch ->            <- Chunk ...          ... and is fetched by the site, a few chunks at a time
                        <- Begin(round)       train, and meanwhile agree on keys:
    Masking(Advertise) -> <- Masking(Cohort)
    Masking(Shares) ->  <- Masking(Bundles)
    Masking(Masked) ->                        the update is masked
    Offer(update) ->    <- Credit             it is sent, as fast as the coordinator can take it
    Chunk ... ->        <- Accepted | Rejected
    Masking(Signed) ->  <- Masking(Survivors)   who is in the sum
    Masking(Reveal) ->  <- Masking(Signatures)  all have signed the same: the sum, and only it, is opened
                        <- Model(version + 1), Begin(round + 1) ... Finished

Without masks the ``Masking`` lines are not there. ``coordinator.py`` and ``site.py`` are the machines; an attempt at
a round is a ``Collection`` or a ``MaskedCollection``.
"""
