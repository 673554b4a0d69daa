"""Schedule and choose: engine, scheduler, sampler, approximations, deadline."""
