rule overlay:
    input:
        data="results/{name}/data/target",
        evaluations=plan.overlay_evaluations,
    output:
        report(
            "results/{name}/figures/overlays.png",
            caption="../report/overlays.rst",
            category="Figures",
        ),
    log:
        "results/{name}/logs/overlay.log",
    benchmark:
        "results/{name}/benchmarks/overlay.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=plan.settings("overlay"),
        predictions=plan.predictions,
    shell:
        "cast overlay --settings {params.settings:q} --truth {input.data:q}/validation.json --out {output:q}"
        " {params.predictions:q} 2>&1 | tee {log:q}"
