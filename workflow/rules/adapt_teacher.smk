rule adapt_teacher:
    input:
        start=plan.start,
        split="results/{name}/seed{seed}{budget}/split",
        pseudo_labels=plan.pseudo_labels,
    output:
        directory("results/{name}/seed{seed}{budget}/adapt_teacher/{recipe}"),
    log:
        "results/{name}/logs/adapt_teacher/seed{seed}{budget}/{recipe}.log",
    benchmark:
        "results/{name}/benchmarks/adapt_teacher/seed{seed}{budget}/{recipe}.tsv"
    wildcard_constraints:
        recipe=one_of(plan.recipes("adapt_teacher")),
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("adapt_teacher"),
        start=plan.start_folder,
        pseudo_labels=plan.pseudo_label_option,
    shell:
        "cast adapt_teacher --settings {params.settings:q} --start {params.start:q} --split {input.split:q}"
        " {params.pseudo_labels:q} --seed {wildcards.seed} --out {output:q} --threads {threads}"
        " 2>&1 | tee {log:q}"
