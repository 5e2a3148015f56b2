"""A slow, literal transcription of the equations of M2IB: one pair, one draw at a time, the whole model each time.

Deliberately shares nothing with the engine but the noise: the bottleneck is a forward hook on the unmodified model,
which recomputes everything in front of it, as the equations read. Source: Wang et al., NeurIPS 2023, section 3;
Schulz et al., ICLR 2020, equations 4 to 6 for the form with feature statistics.
"""

import torch
import torch.nn.functional as F


def _as_tokens(full, maps):
    if full.ndim == 3:
        return full
    return full.flatten(2).transpose(1, 2) if maps == "nchw" else full.flatten(1, 2)


def _as_hidden(tokens, like, maps):
    if like.ndim == 3:
        return tokens
    return (tokens.transpose(1, 2) if maps == "nchw" else tokens).reshape(like.shape)


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
    priced=None,
    steps=10,
    learning_rate=1.0,
    initial_alpha=5.0,
    maps="nchw",
):
    """Nats per token (T,) of one input and the mean cosine after the final gates.

    embed: () -> (1, E), the forward of the tower under audit; target: (1, E) embedding of the other modality.
    noise: one tensor (draws, T, D) a step, and one more for the final cosine. gated, closed: (T,) bool.
    priced: over how many tokens beta's mean is taken, default those that are gated.
    maps: how feature maps lie, where hidden states are maps: nchw or nhwc; their cells are the tokens, row by row.
    """
    first = {}

    def remember(_module, _inputs, output):
        first["x"] = _as_tokens(output[0] if isinstance(output, tuple) else output, maps).detach()

    def remember_input(_module, inputs):
        first["x"] = _as_tokens(inputs[0], maps).detach()

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
            if isinstance(full, tuple):  # a block that returns more than its hidden states
                return (replace(full[0]), *full[1:])
            replaced = _as_tokens(full, maps).clone()
            replaced[0, :tokens] = z
            return _as_hidden(replaced, full, maps)

        if layer >= 0:
            handle = blocks[layer].register_forward_hook(lambda _m, _i, output: replace(output))
        else:
            handle = blocks[0].register_forward_pre_hook(lambda _m, inputs: (replace(inputs[0]), *inputs[1:]))
        try:
            return F.cosine_similarity(embed(), target)[0]
        finally:
            handle.remove()

    for step in range(steps):
        mean_kl = kl(alpha)[gated].mean(dim=1).sum() / (gated if priced is None else priced).sum()
        loss = beta * mean_kl - sum(cosine(alpha, eps) for eps in noise[step]) / len(noise[step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        nats = kl(alpha).sum(dim=1) * gated
        return nats, sum(cosine(alpha, eps) for eps in noise[steps]) / len(noise[steps])
