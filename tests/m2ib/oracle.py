"""A slow, literal transcription of the equations of M2IB: one pair, one draw at a time, the whole model each time.

Deliberately shares nothing with the engine but the noise: the bottleneck is a forward hook on the unmodified model,
which recomputes everything in front of it, as the equations read. Source: Wang et al., NeurIPS 2023, section 3;
Schulz et al., ICLR 2020, equations 4 to 6 for the form with feature statistics.
"""

import torch
import torch.nn.functional as F


def map_of_one_pair(
    model,
    blocks,
    layer,
    embed,
    target,
    noise,
    beta,
    *,
    mean=0.0,
    std=1.0,
    gated,
    closed,
    steps=10,
    learning_rate=1.0,
    initial_alpha=5.0,
):
    """Nats per token (T,) of one input and the mean cosine after the final gates.

    embed: () -> (1, E), the forward of the tower under audit; target: (1, E) embedding of the other modality.
    noise: one tensor (draws, T, D) a step, and one more for the final cosine. gated, closed: (T,) bool.
    """
    first = {}

    def remember(_module, _inputs, output):
        first["x"] = output.detach()

    def remember_input(_module, inputs):
        first["x"] = inputs[0].detach()

    if layer >= 0:
        handle = blocks[layer].register_forward_hook(remember)
    else:
        handle = blocks[0].register_forward_pre_hook(remember_input)
    with torch.no_grad():
        embed()
    handle.remove()
    tokens = len(gated)
    x = first["x"][0, :tokens]
    alpha = torch.full_like(x, initial_alpha, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=learning_rate)

    def kl(a):
        lam, rest, r = torch.sigmoid(a), torch.sigmoid(-a), (x - mean) / std
        return 0.5 * ((lam * r) ** 2 + rest**2 - 1 - 2 * F.logsigmoid(-a))

    def cosine(a, eps):
        z = torch.sigmoid(a) * x + torch.sigmoid(-a) * (mean + std * eps)
        z = torch.where(gated[:, None], z, x)
        z = torch.where(closed[:, None], mean + std * eps, z)

        def replace(full):
            full = full.clone()
            full[0, :tokens] = z
            return full

        if layer >= 0:
            handle = blocks[layer].register_forward_hook(lambda _m, _i, output: replace(output))
        else:
            handle = blocks[0].register_forward_pre_hook(lambda _m, inputs: (replace(inputs[0]), *inputs[1:]))
        try:
            return F.cosine_similarity(embed(), target)[0]
        finally:
            handle.remove()

    for step in range(steps):
        loss = beta * kl(alpha)[gated].mean() - sum(cosine(alpha, eps) for eps in noise[step]) / len(noise[step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        nats = kl(alpha).sum(dim=1) * gated
        return nats, sum(cosine(alpha, eps) for eps in noise[steps]) / len(noise[steps])
