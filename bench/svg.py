"""A recall/throughput plot as SVG text: linear recall to the right, logarithmic rates upwards."""

import html
import math

WIDTH, HEIGHT = 720, 460
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 48, 56
COLORS = ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207"]


def recall_curves(title, curves, rates="queries/s"):
    """curves: {label: [(recall, rate), ...]}, each in the order of the knob; `rates` names the rate."""
    points = [point for curve in curves.values() for point in curve]
    # One step of 0.01 below the lowest point, but never more than the interesting upper part.
    low = max(0.0, math.floor(100 * min(r for r, _ in points) - 1) / 100)
    bottom = math.floor(math.log10(min(q for _, q in points)) * 4) / 4
    top = math.ceil(math.log10(max(q for _, q in points)) * 4) / 4

    def x(recall):
        return LEFT + (recall - low) / (1 - low) * (WIDTH - LEFT - RIGHT)

    def y(rate):
        return HEIGHT - BOTTOM - (math.log10(rate) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    def text(at_x, at_y, content, anchor="middle", more=""):
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}"{more}>{html.escape(content)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           'font-size="12" fill="#222">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           text(WIDTH / 2, 24, title, more=' font-size="15"')]
    for recall in _recall_ticks(low):
        out.append(f'<path d="M{x(recall):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        out.append(text(x(recall), HEIGHT - BOTTOM + 18, f"{recall:.3f}".rstrip("0").rstrip(".")))
    for rate in _rate_ticks(10**bottom, 10**top):
        out.append(f'<path d="M{LEFT} {y(rate):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(text(LEFT - 8, y(rate) + 4, f"{rate:,}", "end"))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "recall@10"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(text(20, middle, rates, more=f' transform="rotate(-90 20 {middle})"'))
    for i, (label, curve) in enumerate(curves.items()):
        color = COLORS[i % len(COLORS)]
        path = " ".join(f"{x(recall):.1f},{y(rate):.1f}" for recall, rate in curve)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{x(recall):.1f}" cy="{y(rate):.1f}" r="3.5" fill="{color}"/>' for recall, rate in curve]
        legend = HEIGHT - BOTTOM - 16 - 18 * (len(curves) - 1 - i)
        out.append(f'<circle cx="{LEFT + 16}" cy="{legend - 4}" r="5" fill="{color}"/>')
        out.append(text(LEFT + 28, legend, label, "start"))
    return "\n".join(out + ["</svg>", ""])


def _recall_ticks(low):
    step = next(s for s in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (1 - low) / s <= 10)
    return [round(i * step, 3) for i in range(math.ceil(low / step - 1e-9), round(1 / step) + 1)]


def _rate_ticks(low, high):
    ticks = [round(m * 10**e) for e in range(int(math.log10(low)) - 1, int(math.log10(high)) + 2) for m in (1, 2, 5)]
    return [tick for tick in ticks if tick >= 1 and low * 0.999 <= tick <= high * 1.001]
