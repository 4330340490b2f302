"""What coordinator and sites say to each other, and when: messages and two state machines without I/O or clock.

A round, as the messages see it (a site's own in the left column)::

    Hello ->            <- Welcome(plan)      who is there, and what was agreed
    Join(layout) ->     <- Joined             the model is the same one
                        <- Model(version)     a global model is ready ...
    Fetch ->            <- Chunk ...          ... and is fetched by the site, a few chunks at a time
                        <- Begin(round)       train
    Offer(update) ->    <- Credit             the update is sent, as fast as the coordinator can take it
    Chunk ... ->        <- Accepted | Rejected
                        <- Model(version + 1), Begin(round + 1) ... Finished
"""
